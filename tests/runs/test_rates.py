"""What --dry-run says of learning rate and averages, and what it and the start of a training warn of."""

import re
from pathlib import Path

import pytest

from lightning_diff.cli import main
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe
from lightning_diff.runs.describe import describe

RECIPE = """
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: lightning_diff.nets.MLP, width: 16, depth: 1}
  optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 2.0e-3}
data: {_target_: lightning_diff.data.Toy, n: 256, batch_size: 16}
trainer: {accelerator: cpu, max_steps: 100}
"""  # 1,600 images
RATE = "model.learning_rate={_target_: lightning_diff.learning_rate.%s}"
AVERAGE = "callbacks=[{_target_: lightning_diff.callbacks.EMA, profiles: {slow: {_target_: lightning_diff.ema.%s}}}]"
WARM_UP, AT_ZERO, TOO_LONG = "never leaves its warm-up", "the rate is 0", "longer than the run"


def rising(images: int) -> float:
    """A rate of one's own, without a name for its warm-up."""
    return images / 1e6


def nowhere(images: int, rate: float | None = None) -> float | None:
    """None, or another thing that is no rate."""
    return rate


def told(tmp_path: Path, *words: str) -> str:
    file = tmp_path / "run.yaml"
    file.write_text(RECIPE)
    return describe(recipe.load(file, words), file)


@pytest.mark.parametrize(
    ("word", "rates"),
    [
        ("seed=0", ("0.002", "0.002", "0.002")),
        (RATE % "Cosine, warmup: 0.5", ("4e-05", "0.002", "0")),
        (RATE % "Cosine, floor: 0.1", ("0.002", "0.0011", "0.0002")),
        (RATE % "Constant, warmup: 1_600_000", ("2e-08", "1e-06", "2e-06")),
        ("model.optimizer={_target_: torch.optim.AdamW, _partial_: true}", ("0.001", "0.001", "0.001")),
    ],
)
def test_the_rate_at_the_start_in_the_middle_and_at_the_end(tmp_path, word, rates):
    line = "# learning rate {} at the start, {} in the middle, {} at the end".format(*rates)
    assert line in told(tmp_path, word).splitlines()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=0", ()),
        (RATE % "Cosine", ()),  # its last step alone is at 0
        (RATE % "Cosine, warmup: 0.9", ()),
        (RATE % "Cosine, total: 1_600", ()),
        (RATE % "Cosine, total: 1_600_000, warmup: 100", ()),
        (RATE % "InverseSqrt, reference: 100, warmup: 100", ()),
        (RATE % "Cosine, total: 1_500", (AT_ZERO,)),
        (RATE % "Cosine, total: 0.5", (AT_ZERO,)),
        (RATE % "Constant, warmup: 1_601", (WARM_UP,)),
        (RATE % "Cosine, warmup: 10_000", (WARM_UP,)),
        (RATE % "InverseSqrt, reference: 10, warmup: 5_000", (WARM_UP,)),
        (f"model.learning_rate={{_target_: {__name__}.rising, _partial_: true}}", (WARM_UP,)),
        ("model.optimizer.lr=0.0", (AT_ZERO,)),
        (AVERAGE % "HalfLife, images: 1_600", ()),
        (AVERAGE % "HalfLife, images: 1_601", (TOO_LONG,)),
        (AVERAGE % "PowerFunction, sigma_rel: 0.28", ()),
        ("callbacks=[{_target_: lightning_diff.callbacks.EMA}]", (TOO_LONG,)),
    ],
)
def test_what_nobody_can_have_meant_is_warned_of_and_nothing_else(tmp_path, word, said):
    warnings = re.findall(r"^# warning: (.*)$", told(tmp_path, word), re.M)
    assert len(warnings) == len(said), warnings
    assert all(part in warning for part, warning in zip(said, warnings, strict=True)), warnings


@pytest.mark.parametrize(
    "rate",
    [
        f"{{_target_: {__name__}.nowhere, _partial_: true}}",
        f"{{_target_: {__name__}.nowhere, _partial_: true, rate: .nan}}",
        f"{{_target_: {__name__}.nowhere, _partial_: true, rate: -0.1}}",
        "{_target_: lightning_diff.learning_rate.InverseSqrt, _partial_: true, reference: 10}",  # calling it makes a rate
    ],
)
def test_what_is_no_rate_is_refused_before_the_folder_is_made(train, rate):
    with pytest.raises(UserError, match=r"model.learning_rate: .* step 1\b"):
        train("run", f"model.learning_rate={rate}")
    assert not Path("runs").exists() or not any(Path("runs/run").glob("checkpoints"))


@pytest.mark.whole
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_a_trial_of_a_packaged_recipe_trains_at_its_rate(capsys, steps):
    """Cut to a few steps; a single step of a cosine is its last, which is told."""
    assert main(["train", "digits_edm", "--dry-run", f"trainer.max_steps={steps}"]) == 0
    out = capsys.readouterr().out
    assert (AT_ZERO in out) is (steps == 1)
    assert WARM_UP not in out
    assert TOO_LONG in out


@pytest.mark.whole
@pytest.mark.parametrize("name", ["digits_edm", "imagenet64_dit_1b"])
def test_a_packaged_recipe_at_its_length_has_no_warning(name):
    assert "warning" not in describe(recipe.load(name), name)


def test_the_start_of_a_training_says_the_same(train, capsys):
    train("run", RATE % "Cosine, total: 32", AVERAGE % "HalfLife, images: 500_000")
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert AT_ZERO in warnings[0]
    assert TOO_LONG in warnings[1]
