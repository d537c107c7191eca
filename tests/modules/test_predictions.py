"""A run with any prediction, and what the other methods make of its model: one recipe line."""

import json

import pytest
import torch
from messages import tells

from lightning_diff.artifacts import load_denoiser, read_record
from lightning_diff.foundation.errors import UserError

STUDENT = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher}"
TABLE = "model.time={_target_: lightning_diff.denoiser.TableTime, steps: 100, beta_end: 0.3}"
LINES = {
    "flow": (["model.prediction=flow"], "flow"),
    "v_prediction": (["model.prediction=v_prediction"], "edm"),
    "epsilon": (["model.prediction=epsilon", TABLE], {"steps": 100, "beta_end": 0.3}),
    "trigflow": (["model.prediction=trigflow"], "trigflow"),
}


@pytest.mark.parametrize("prediction", LINES)
def test_one_line_trains_a_new_network_whose_file_says_what_it_predicts(train, prediction):
    lines, time = LINES[prediction]
    folder = train("teacher", *lines)
    record, model = read_record(folder), load_denoiser(folder)
    assert record.prediction == model.prediction == prediction
    assert model.time == record.time
    assert record.time == time if isinstance(time, str) else time.items() <= record.time.items()
    x, sigma = torch.randn(3, 2), torch.tensor([0.01, 0.5, 20.0])
    assert model(x, sigma, torch.tensor([0, 1, 2])).isfinite().all()


@pytest.mark.whole
@pytest.mark.parametrize("prediction", LINES)
def test_its_model_is_distilled_and_started_from_as_it_is(train, state, prediction):
    train("teacher", *LINES[prediction][0])
    student = train("student", STUDENT)
    assert (read_record(student).prediction, read_record(student).kind) == (prediction, "consistency")
    second = train("second", "model.start=runs/teacher", "model.net=null")
    assert read_record(second).prediction == prediction
    assert read_record(second).time == read_record("runs/teacher").time


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_a_run_resumes_to_the_last_bit(train, prediction):
    lines = LINES[prediction][0]
    whole = train("whole", *lines)
    train("halves", *lines, "trainer.max_steps=4")
    halves = train("halves", *lines)
    one, other = (load_denoiser(folder).net.state_dict() for folder in (whole, halves))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_older_program_refuses_what_it_would_misread_and_reads_what_it_knows(train):
    assert json.loads((train("plain") / "model.json").read_text())["format"] == 1
    assert json.loads((train("v", "model.prediction=v_prediction") / "model.json").read_text())["format"] == 2


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["model.prediction=velocity"], "... model.prediction: ... v_prediction"),
        (["model.prediction=flow", "model.time=vp"], "... model.time: ... edm ... trigflow ... flow"),
        ([TABLE], "... model: ... what the network predicts"),
        (
            ["model.prediction=epsilon", TABLE.replace("beta_end: 0.3", "betas: cosine")],
            "... model.time.betas: ... squaredcos_cap_v2",
        ),
    ],
)
def test_what_is_none_is_refused_in_a_sentence(train, overrides, facts):
    with pytest.raises(UserError) as error:
        train("bad", *overrides)
    assert tells(str(error.value), facts)


def test_weights_of_another_prediction_are_no_start(train):
    train("teacher", "model.prediction=flow")
    with pytest.raises(UserError) as error:
        train("second", "model.start=runs/teacher", "model.net=null", "model.prediction=v_prediction")
    assert tells(str(error.value), "model: prediction v_prediction ... runs/teacher ... flow")
