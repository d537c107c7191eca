"""What a model can be sampled with follows from what it was trained with, and is checked wherever a model is used."""

import json
from pathlib import Path

import pytest
from messages import tells

from lightning_diff.artifacts import Conditions, TrainedWith, read_record
from lightning_diff.cli import app as cli
from lightning_diff.foundation.errors import UserError

SHORT = "trainer.max_steps=1"
DROPPING = "model.label_dropout=0.5"


def conditions(kind="denoiser", classes=8, takes_scale=False, **trained) -> Conditions:
    return Conditions(kind=kind, num_classes=classes, takes_scale=takes_scale, trained_with=TrainedWith(**trained))


FAULTS = {
    "dropped": (conditions(label_dropout=0.1), {}, None),
    "never dropped": (conditions(label_dropout=0.0), {}, "guidance: ... condition_dropout"),
    "never dropped, guided by another": (conditions(label_dropout=0.0), {"has_guide": True}, None),
    "no label wanted, one always had": (conditions(label_dropout=0.0), {"scale": 1.0, "labelled": False}, "labels: ... label"),
    "no label wanted, sometimes had none": (conditions(label_dropout=0.1), {"scale": 1.0, "labelled": False}, None),
    "no classes": (conditions(classes=0, label_dropout=0.0), {}, "guidance: ... no classes"),
    "no classes, no label": (conditions(classes=0, label_dropout=0.0), {"scale": 1.0, "labelled": False}, None),
    "no labels": (conditions(label_dropout=0.1), {"labelled": False}, "guidance: ... --labels"),
    "distilled without": (conditions("consistency", label_dropout=0.0), {}, "guidance: ... consistency"),
    "distilled for it": (conditions("consistency", takes_scale=True, guidance=(1.0, 3.0)), {}, None),
    "distilled for less": (conditions("consistency", takes_scale=True, guidance=(1.0, 1.5)), {}, "guidance: ... 1 to 1.5"),
    "distilled for something": (conditions("consistency", takes_scale=True), {}, None),
    "guide and scale": (conditions(takes_scale=True), {"has_guide": True}, "guide: ... no guide"),
    "not known": (conditions(), {}, None),
}  # fmt: skip


@pytest.mark.parametrize(("model", "wanted", "expected"), FAULTS.values(), ids=FAULTS)
def test_what_a_model_cannot_give_is_refused_and_nothing_else(model, wanted, expected):
    wanted = {"scale": 2.0} | wanted
    fault = model.fault(wanted.pop("scale"), **wanted)
    assert (fault is None) == (expected is None)
    assert fault is None or tells(": ".join(fault), expected)


def test_what_is_not_known_is_said():
    assert conditions().doubt(1.0) is None
    assert tells(conditions().doubt(2.0), "... condition_dropout")
    assert tells(conditions().doubt(1.0, labelled=False), "... condition_dropout")
    assert conditions().doubt(2.0, has_guide=True) is None
    assert conditions(label_dropout=0.0).doubt(1.0) is None
    assert tells(conditions(takes_scale=True).doubt(2.0), "... distilled ... not recorded")
    assert tells(conditions(takes_scale=True, guidance=(1.5, 2.0)).doubt(1.0), "... 1.5 to 2")


def test_a_record_says_what_its_model_was_trained_with_after_export_too(train):
    for name, words, expected in (
        ("plain", [], (0.0, None, False)),
        ("dropping", [DROPPING], (0.5, None, False)),
        ("student", [STUDENT % "dropping", "model.guidance=[1,2]"], (0.0, (1.0, 2.0), False)),
    ):
        folder = train(name, SHORT, *words)
        for _ in range(2):
            record = read_record(folder)
            assert (record.label_dropout, record.guidance, record.augment) == expected
            (folder / "model.json").unlink()
            assert cli.main(["export", name]) == 0


STUDENT = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/%s, warmup: 64}"
STICK = (
    "model={_target_: lightning_diff.ScheduleModule, model: runs/plain, guidance: 2.0, "
    "learner: {_target_: lightning_diff.schedules.StickBreaking, steps: 4, width: 8}}"
)
NOISE = "data={_target_: lightning_diff.data.Noise, model: runs/plain, batch_size: 4%s}"
CALLBACK = "callbacks=[{_target_: lightning_diff.callbacks.%s, guidance: %s}]"


@pytest.fixture
def plain(train):
    """A class-conditional model that has always seen labels."""
    return train("plain", SHORT)


def test_every_entry_refuses_guidance_without_an_unconditional_output_before_any_work(plain, train, capsys):
    for command in (
        ["sample", "plain", "--guidance", "2"],
        ["evaluate", "plain", "--guidance", "2", "--feature", "pixels"],
        ["schedule", "plain", "--method", "art", "--guidance", "2"],
        ["schedule", "plain", "--method", "art_rl", "--guidance", "2"],
    ):
        assert cli.main(command) == 2
        assert tells(capsys.readouterr().err, "error: --guidance: ... condition_dropout")
    assert cli.main(["sample", "plain", "--labels", "none"]) == 2
    assert tells(capsys.readouterr().err, "error: --labels: ... label")
    for words in (
        [STUDENT % "plain", "model.guidance=[1,2]"],
        [STICK, NOISE % ""],
        [CALLBACK % ("Evaluate", "2, feature: pixels")],
        [STUDENT % "plain", CALLBACK % ("Evaluate", "2, feature: pixels")],
    ):
        with pytest.raises(UserError) as caught:
            train(f"run{len(str(words))}", SHORT, *words)
        assert "guidance" in str(caught.value)
        assert not list(Path("runs").glob("run*/checkpoints/*"))
    with pytest.raises(UserError, match=r"data: .*label"):
        train("unlabelled", SHORT, STICK.replace("guidance: 2.0, ", ""), NOISE % ", conditional: false")


def test_with_label_dropout_they_all_go(train, capsys):
    train("plain", SHORT, DROPPING)
    assert cli.main(["sample", "plain", "--guidance", "2", "--n", "8", "--steps", "2"]) == 0
    assert cli.main(["sample", "plain", "--labels", "none", "--n", "8", "--steps", "2"]) == 0
    train(
        "student",
        SHORT,
        STUDENT % "plain",
        "model.guidance=[1,2]",
        CALLBACK % ("Evaluate", "1.5, feature: pixels, n: 16"),
    )
    train("grid", SHORT, STICK, NOISE % "")
    assert "not recorded" not in capsys.readouterr().out
    assert cli.main(["sample", "student", "--guidance", "3"]) == 2
    assert tells(capsys.readouterr().err, "error: --guidance: ... 1 to 2")


def test_a_model_of_before_is_used_and_the_doubt_said_once(plain, capsys):
    path = plain / "model.json"
    old = {
        name: value for name, value in json.loads(path.read_text()).items() if name not in ("label_dropout", "guidance")
    }
    path.write_text(json.dumps(old))
    assert cli.main(["sample", "plain", "--guidance", "2", "--n", "8", "--steps", "2"]) == 0
    assert capsys.readouterr().out.count("not recorded") == 1
