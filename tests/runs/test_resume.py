"""What a run may change when it resumes, what it may not, and what it says."""

import copy
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from messages import tells

from lightning_diff.artifacts import checkpoints, metrics_table
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe, resume_rules

NUMPY_STATE = """
import numpy as np
from lightning.pytorch import Callback

class NumpyState(Callback):
    def state_dict(self):
        return {"best": np.float64(1.0)}
"""
EMA = "callbacks=[{_target_: lightning_diff.callbacks.EMA, profiles: {%s}}]"
LEVELS = "callbacks=[{_target_: lightning_diff.callbacks.NoiseLevels}]"
PROFILE = "%s: {_target_: lightning_diff.ema.HalfLife, images: %d}"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read(checkpoints.newest(folder / "checkpoints"))["state_dict"]


def test_harmless_changes_resume_and_are_named(train, capsys):
    whole = weights(train("whole"))
    train("parts", "trainer.max_steps=4")
    capsys.readouterr()
    folder = train("parts", "trainer.log_every_n_steps=2", "data.workers=1", LEVELS)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "runs/parts: continuing from runs/parts/checkpoints/step_00000004.ckpt, step 4"
    for change in (
        "trainer.max_steps was 4, is 8",
        "trainer.log_every_n_steps was 1, is 2",
        "callbacks.NoiseLevels was left out, is",
    ):
        assert any(line.startswith(f"changed: {change}") for line in said), change
    assert all(torch.equal(value, whole[name]) for name, value in weights(folder).items())


@pytest.mark.whole
@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.condition_dropout=0.5"], ["model.condition_dropout was left out, is 0.5"]),
        (["seed=4", "data.batch_size=32"], ["seed was 3, is 4", "data.batch_size was 16, is 32"]),
        (["trainer.gradient_clip_val=1.0"], ["trainer.gradient_clip_val was left out, is 1.0"]),
    ],
)  # fmt: skip
def test_changes_that_decide_what_is_trained_need_a_word(train, overrides, named):
    train("run", "trainer.max_steps=2")
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="resume=force") as refused:
        train("run", *overrides)
    assert all(change in str(refused.value) for change in named)
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == before
    folder = train("run", *overrides, "resume=force")
    assert checkpoints.read(checkpoints.newest(folder / "checkpoints"))["global_step"] == 8
    train("run", *overrides, "trainer.max_steps=9")  # is the run's own recipe from now on


OPTIMIZER = "model.optimizer={_target_: torch.optim.%s, _partial_: true, lr: 0.01%s}"


@pytest.mark.whole
@pytest.mark.parametrize(
    ("first", "then", "lacks"),
    [
        (("Adam", ""), ("Adam", ", amsgrad: true"), "max_exp_avg_sq"),
        (("Adam", ""), ("SGD", ", momentum: 0.9"), "momentum_buffer"),
        (("SGD", ""), ("Adagrad", ""), "sum"),  # which makes its state when it is built
        (("RMSprop", ""), ("RMSprop", ", centered: true"), "grad_avg"),
        (("Adam", ""), ("LBFGS", ""), "func_evals"),
    ],
)
def test_an_optimiser_with_other_state_starts_anew_where_that_is_forced(train, state, first, then, lacks):
    train("run", "trainer.max_steps=2", OPTIMIZER % first)
    with pytest.raises(UserError, match=r"model.optimizer.*resume=force"):
        train("run", OPTIMIZER % then)
    with pytest.warns(UserWarning, match=rf"model.optimizer: {then[0]} .*{lacks}.* anew"):
        folder = train("run", OPTIMIZER % then, "resume=force")
    kept = state(folder)["optimizer_states"][0]
    assert lacks in kept["state"][0]
    assert int(kept["state"][0].get("step", 6)) == 6  # of eight
    train("run", OPTIMIZER % then, "trainer.max_steps=9")


@pytest.mark.whole
@pytest.mark.parametrize(
    ("first", "then", "keeps"),
    [
        (("Adam", ", amsgrad: true"), ("Adam", ""), {"exp_avg", "exp_avg_sq", "step"}),
        (("SGD", ", momentum: 0.9"), ("SGD", ""), set()),
        (("SGD", ""), ("SGD", ", momentum: 0.9"), {"momentum_buffer"}),
        (("Adam", ""), ("SGD", ""), set()),
        (("Adam", ""), ("AdamW", ""), {"exp_avg", "exp_avg_sq", "step"}),
        (("Adam", ""), ("Adam", ", fused: true"), {"exp_avg", "exp_avg_sq", "step"}),
        (("Adam", ", fused: true"), ("Adam", ", foreach: true"), {"exp_avg", "exp_avg_sq", "step"}),
    ],
)
def test_an_optimiser_keeps_the_state_that_it_shares_and_no_more(train, state, first, then, keeps):
    train("run", "trainer.max_steps=2", OPTIMIZER % first)
    kept = state(train("run", OPTIMIZER % then, "resume=force"))["optimizer_states"][0]
    assert set(kept["state"].get(0, ())) == keeps
    if "step" in keeps:
        assert kept["state"][0]["step"] == 8
    fresh = state(train("fresh", OPTIMIZER % then))["optimizer_states"][0]
    assert kept["param_groups"] == fresh["param_groups"]  # AdamW decays as AdamW does


@pytest.mark.parametrize(
    ("override", "fact"),
    [
        ("model.net.width=8", "another network"),
        (OPTIMIZER % ("Adam", ", capturable: true"), "capturable"),
        (OPTIMIZER % ("Muon", ""), "2D"),
        ("callbacks=[{_target_: lightning_diff.callbacks.Evaluate, n: 2}]", "Evaluate"),
    ],
)
def test_what_is_refused_before_the_first_step_leaves_the_runs_recipe_as_it_was(train, override, fact):
    folder = train("run", "trainer.max_steps=2")
    names = ("recipe.yaml", "versions.json", "checkpoints/step_00000002.ckpt", "model.safetensors")
    before = {name: (folder / name).read_bytes() for name in names}
    with pytest.raises(UserError, match=fact):
        train("run", override, "resume=force")
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_an_optimisers_groups_must_be_as_many_and_as_large():
    from lightning_diff.modules.optimizer_state import misfit

    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    adam = partial(torch.optim.Adam, lr=0.1)

    def two(parameters):
        first, *rest = parameters
        return torch.optim.Adam([{"params": [first]}, {"params": rest}], lr=0.1)

    assert misfit(two(iter(weights)).state_dict(), two, weights) is None
    assert "2 groups of 1, 2" in misfit(two(iter(weights)).state_dict(), adam, weights)
    assert "1 group of 3" in misfit(adam(weights).state_dict(), adam, weights[:2])


STOP = """
from pathlib import Path
from lightning.pytorch import Callback

class Stop(Callback):
    def __init__(self, after):
        self.after = after

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx + 1 == self.after and not Path("stopped").exists():
            Path("stopped").touch()
            trainer.should_stop = True
"""


@pytest.mark.whole
@pytest.mark.parametrize(
    ("accumulation", "after"), [(1, 3), (2, 6), (2, 7)]
)  # micro-batches; the last in the middle of a step
def test_a_training_that_was_ended_early_says_where_and_the_same_command_resumes(
    train, tmp_path, capsys, accumulation, after
):
    (tmp_path / "stop_early.py").write_text(STOP)
    accumulate = f"trainer.accumulate_grad_batches={accumulation}"
    command = [accumulate, f"callbacks=[{{_target_: stop_early.Stop, after: {after}}}]"]
    folder = train("run", *command)
    assert tells(capsys.readouterr().out, "... runs/run: stopped at step 3 of 8: ... trainer.should_stop")
    assert not (folder / "finished.json").exists()
    train("run", *command)
    assert (folder / "finished.json").exists()
    assert (folder / "model.safetensors").read_bytes() == (
        train("whole", accumulate) / "model.safetensors"
    ).read_bytes()


@pytest.mark.whole
def test_max_time_counts_from_each_start(train, capsys):
    command = ["trainer.max_time={milliseconds: 1}"]  # one step takes longer
    folder = train("run", *command)
    assert tells(capsys.readouterr().out, "... stopped at step 1 of 8: trainer.max_time")
    for step in range(2, 8):
        train("run", *command)
        assert tells(capsys.readouterr().out, f"... stopped at step {step} of 8")
    train("run", *command)
    assert tells(capsys.readouterr().out, "... runs/run: done")
    assert (folder / "model.safetensors").read_bytes() == (train("whole") / "model.safetensors").read_bytes()


def learning_rates(folder: Path) -> list[float]:
    return [
        float(row["value"])
        for row in metrics_table.read(folder / "metrics.csv")
        if row["metric"] == "train/learning_rate"
    ]


def test_a_forced_change_of_the_optimisers_options_is_made(train, state):
    adam = "model.optimizer={_target_: torch.optim.AdamW, _partial_: true, lr: %s, weight_decay: %s}"
    train("run", "trainer.max_steps=2", adam % (1e-3, 0.1))
    folder = train("run", "trainer.max_steps=4", adam % (1e-4, 0.5), "resume=force")
    assert learning_rates(folder) == [1e-3, 1e-3, 1e-4, 1e-4]
    (group,) = state(folder)["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == 0.5


def test_a_run_whose_checkpoints_were_deleted_is_moved_aside_not_overwritten(train):
    folder = train("run")
    model = (folder / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "checkpoints")
    train("run", "trainer.max_steps=2")
    assert Path("runs/run.1/model.safetensors").read_bytes() == model


def test_a_path_to_a_damaged_checkpoint_is_refused(train):
    folder = train("run", "trainer.max_steps=2")
    path = folder / "checkpoints" / "step_00000002.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"resume: .*step_00000002.ckpt: .*checksum"):
        train("run", f"resume={path}")


@pytest.mark.whole
@pytest.mark.parametrize("word", ["never", "runs/run/checkpoints/step_00000002.ckpt"])
def test_a_job_that_is_started_again_resumes_from_where_it_was(train, monkeypatch, capsys, word):
    train("run", "trainer.max_steps=2")
    train("run", "trainer.max_steps=4")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    train("run", f"resume={word}")
    assert "runs/run/checkpoints/step_00000004.ckpt" in capsys.readouterr().out


def test_a_state_that_could_not_be_read_again_is_refused_at_the_first_save(train):
    Path("numpy_state.py").write_text(NUMPY_STATE)
    with pytest.raises(UserError, match="more than tensors"):
        train("run", "callbacks=[{_target_: numpy_state.NumpyState}]")


def test_an_average_may_be_added_or_dropped_but_not_changed_under_its_name(train):
    two = ", ".join([PROFILE % ("a", 100), PROFILE % ("b", 200)])
    train("run", "trainer.max_steps=2", EMA % (PROFILE % ("a", 100)))
    with pytest.warns(UserWarning, match="no average b"):
        train("run", "trainer.max_steps=3", EMA % two)
    with pytest.raises(UserError, match=r"callbacks.EMA.profiles.b.images .*200.* 300.*resume=force"):
        train("run", EMA % ", ".join([PROFILE % ("a", 100), PROFILE % ("b", 300)]))
    train("run", EMA % (PROFILE % ("b", 200)))


def test_an_average_that_was_left_to_its_default_may_not_change_either(train):
    train("run", "trainer.max_steps=2", "callbacks=[{_target_: lightning_diff.callbacks.EMA}]")
    with pytest.raises(UserError, match=r"callbacks.EMA.profiles.ema.images .*500000.* 300"):
        train("run", EMA % (PROFILE % ("ema", 300)))
    train("run", "callbacks=[{_target_: lightning_diff.callbacks.ema.EMA}]")


def test_other_images_are_refused_whatever_is_said(train):
    train("run", "trainer.max_steps=2")
    for word in ("force", "runs/run/checkpoints/step_00000002.ckpt"):
        with pytest.raises(UserError, match="training images"):
            train("run", "data.n=128", f"resume={word}")


def test_a_lost_recipe_is_read_from_the_checkpoint(train):
    folder = train("run", "trainer.max_steps=2")
    (folder / "recipe.yaml").unlink()
    with pytest.raises(UserError, match="seed was 3, is 4"):
        train("run", "seed=4")
    train("run")
    assert recipe.read_yaml(folder / "recipe.yaml")["seed"] == 3


def test_a_checkpoint_of_the_first_format_resumes_and_of_a_later_one_is_refused(train, state):
    whole = weights(train("whole", "generator=1"))
    folder = train("run", "generator=1", "trainer.max_steps=4")
    path = checkpoints.newest(folder / "checkpoints")
    first = state(folder)
    assert first["recipe_hash"] == checkpoints.recipe_hash(first["recipe"])
    later = copy.deepcopy(first) | {"format": 99}
    for key in ("format", "recipe", "recipe_hash"):
        del first[key]
    checkpoints.write(path, lambda temporary: torch.save(later, temporary), step=4, images=64)
    with pytest.raises(UserError, match=r"newer version.*format 99.* up to"):
        train("run")
    checkpoints.write(path, lambda temporary: torch.save(first, temporary), step=4, images=64)
    with pytest.raises(UserError, match="seed was 3, is 4"):  # from the recipe beside it
        train("run", "seed=4")
    assert all(torch.equal(value, whole[name]) for name, value in weights(train("run")).items())


class Malice:
    def __reduce__(self):
        return os.system, ("touch it_ran",)


def test_a_checkpoint_that_asks_for_code_to_be_run_is_refused(train, state):
    folder = train("run", "trainer.max_steps=4")
    path = checkpoints.newest(folder / "checkpoints")
    content = state(folder) | {"payload": Malice()}
    checkpoints.write(
        path, lambda temporary: torch.save(content, temporary), step=4, images=64
    )  # its checksum is right
    with pytest.raises(UserError, match=r"more than tensors.*nothing in it was run"):
        train("run")
    assert not Path("it_ran").exists()


def test_the_order_of_callbacks_says_nothing():
    one, two = {"_target_": "x.A", "every": 1}, {"_target_": "x.B"}
    assert resume_rules.comparable({"callbacks": [one, two]}) == resume_rules.comparable({"callbacks": [two, one]})
    same = [one, one | {"every": 2}]
    found = resume_rules.comparable({"callbacks": same})["callbacks"]
    assert found == {"A": {"_target_": "A", "every": 1}, "A (2)": {"_target_": "A", "every": 2}}
