"""Every packaged recipe trains: two steps on the CPU, of networks of reduced width, from the start that its header names.

On one process, and on two: those two train all recipes in turn. `pytest -s` prints the table.
"""

import json
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
from PIL import Image
from tiny_autoencoder import write_latents

from lightning_diff.artifacts import load_denoiser
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.runs import recipe
from lightning_diff.runs.train import train

ROOT = Path(__file__).parents[1]
PACKAGED = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
ON_CPU = ["trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.log_every_n_steps=1"]
PICTURES = ["data.path=pictures", "data.batch_size=8", "data.workers=0"]
UNET = ["model.net.channels=32", "model.net.channel_mult=[1, 1]", "model.net.num_blocks=1"]
DIT = ["model.net.width=32", "model.net.depth=2", "model.net.heads=2", "model.net.patch_size=16"]
EDM2 = [
    "model.net.channels=16",
    "model.net.channel_mult=[1, 1, 1, 1]",
    "model.net.num_blocks=1",
    "model.net.head_width=16",
]
LATENTS = [
    "data.path=latents",
    "data.batch_size=8",
    "data.workers=0",
    "data.autoencoder={_target_: lightning_diff.autoencoders.Pair, module: {_target_: tiny_autoencoder.Eighths}}",
]
CLASSES = ["model.num_classes=4", "model.net.num_classes=4"]
ALONE = ["trainer.devices=1", "trainer.strategy=auto"]
SMALL_PLAN = [
    "model.plan.prompts=2",
    "model.plan.pool=4",
    "model.plan.keep=2",
    "model.plan.steps=3",
    "model.plan.preview_steps=2",
    "data.batch_size=8",
]
FEW = {"SampleGrid": {"columns": 2, "rows": 2, "steps": 2}, "RewardReport": {"n": 8}}  # images that callbacks draw
WORDS = ["data.text.width=8"]
SD3 = [
    *WORDS,
    *(f"model.net.config.{size}" for size in (
        "joint_attention_dim=16", "pooled_projection_dim=16", "attention_head_dim=4", "caption_projection_dim=16"
    )),
]  # fmt: skip
INK = ["model.reward={_target_: lightning_diff.rewards.Ink}"]
# What makes a recipe small; what it starts from comes first.
SMALL = {
    "digits_edm": (None, ["data.batch_size=16"]),
    "digits_scd": ("digits_edm", ["data.batch_size=16"]),
    "digits_sct": ("digits_edm", ["data.batch_size=16"]),
    "digits_one_step": ("digits_edm", ["data.batch_size=16", "model.critic.start=0"]),
    "digits_regression": ("digits_edm", ["data.batch_size=16", "model.nodes=2"]),
    "digits_one_step_reward": ("digits_one_step", ["data.batch_size=16"]),
    "digits_art": ("digits_edm", ["data.batch_size=4", "model.learner.steps=4", "model.learner.width=8"]),
    "digits_end_point": ("digits_edm", ["data.batch_size=4", "model.learner.width=8"]),
    "digits_steps": (
        "digits_edm",
        ["data.batch_size=4", "model.learner.max_steps=3", "model.learner.reference_steps=2"],
    ),
    "digits_reward": ("digits_edm", [*SMALL_PLAN, "model.loss.levels=2"]),
    "captions_flow": (None, [*SD3, "data.batch_size=16"]),
    "captions_scd": ("captions_flow", [*WORDS, "data.batch_size=16"]),
    "captions_art": ("captions_flow", ["data.batch_size=4", "model.learner.width=8"]),
    "captions_reward": ("captions_flow", [*WORDS, *SMALL_PLAN, "model.loss.levels=2"]),
    "cifar10_edm": (None, [*PICTURES, *UNET]),
    "cifar10_small": (None, [*PICTURES, *UNET]),
    "cifar10_scd": ("cifar10_edm", PICTURES),
    "cifar10_sct": ("cifar10_edm", PICTURES),
    "cifar10_regression": ("cifar10_edm", [*PICTURES, "model.nodes=2"]),
    "cifar10_one_step": ("cifar10_edm", [*PICTURES, "model.critic.start=0"]),
    "cifar10_art": ("cifar10_edm", ["data.batch_size=2", "model.learner.steps=4", "model.learner.width=8"]),
    "cifar10_reward": (
        "cifar10_edm",
        [*SMALL_PLAN, *INK, "model.loss.levels=2", "data.path=pictures", "trainer.accumulate_grad_batches=2"],
    ),
    "imagenet64_dit_1b": (None, [*PICTURES, *DIT, *CLASSES, *ALONE, "data.path=large", "model.compile=false"]),
    "imagenet64_edm2_s": (
        None,
        [*PICTURES, *EDM2, *ALONE, "data.path=large", "model.compile=false"],
    ),
    "imagenet512_edm2_s": (None, [*LATENTS, *EDM2, *ALONE, "model.compile=false"]),
    "imagenet512_scd": ("imagenet512_edm2_s", [*LATENTS, *ALONE]),
    "imagenet64_scd": ("imagenet64_dit_1b", [*PICTURES, *ALONE, "data.path=large"]),
}


def draw_pictures(folder: Path) -> None:
    """Noise of 32x32 in `pictures`, of 64x64 in `large`, each in four folders of classes; latents of 64x64 in `latents`."""
    random = np.random.default_rng(0)
    for name, side in (("pictures", 32), ("large", 64)):
        for i in range(24):
            path = folder / name / f"class{i % 4}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    write_latents(folder / "latents", 24, (4, 8, 8), classes=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures of 32x32 and 64x64 in four classes, in which runs are trained once, each after what it starts from."""
    folder = tmp_path_factory.mktemp("recipes")
    draw_pictures(folder)
    return folder


def trained(name: str, processes: int = 1) -> Path:
    """The run folder of a recipe in its small form, in the working folder; trained if it is not there.

    On two processes it starts from what one has trained, and the recipe's own strategy stands.
    """
    folder, (start, words) = Path("runs") / (name if processes == 1 else f"{name}_on_{processes}"), SMALL[name]
    if not (folder / "finished.json").is_file():
        if start is not None:
            trained(start)
        # What measures has tests of its own; everything else that the recipe lists runs along.
        listed = {node["_target_"].rpartition(".")[2]: node for node in recipe.compose(name)["callbacks"]}
        kept = [node | FEW.get(kind, {}) for kind, node in listed.items() if kind != "Evaluate"]
        if processes > 1:
            words = [word for word in words if word not in ALONE] + [f"trainer.devices={processes}"]
        settings = recipe.load(name, [*words, *ON_CPU, f"name={folder.name}", f"callbacks={json.dumps(kept)}"])
        train(settings, recipe.find(name))
    return folder


def losses(folder: Path) -> list[float]:
    """Of each step, a critic's own where it moved."""
    rows = read(folder / "metrics.csv")
    return [float(row["value"]) for row in rows if row["metric"] in ("train/loss", "train/critic_loss")]


def test_every_packaged_recipe_has_a_small_form():
    assert sorted(SMALL) == PACKAGED


@pytest.mark.whole
@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_recipe_trains(place, monkeypatch, name):
    monkeypatch.chdir(place)
    folder = trained(name)
    assert json.loads((folder / "finished.json").read_text())["step"] == 2
    assert len(losses(folder)) == 2
    assert np.isfinite(losses(folder)).all()
    if recipe.compose(name)["model"]["_target_"] != "lightning_diff.ScheduleModule":
        load_denoiser(folder)


def test_every_start_is_the_one_that_the_header_names():
    for name, (start, _) in SMALL.items():
        header = (ROOT / "recipes" / f"{name}.yaml").read_text().partition("\nname:")[0]
        command = header.partition("lightning-diff train ")[2].split("\n")[0].split()
        assert start is None or {start, name} <= {*command} or f"runs/{start}" in header, name


# One of each module, with and without what else processes share; the others differ in numbers, and are run by `-m slow`.
ON_TWO = ["digits_edm", "digits_scd", "digits_art", "digits_steps", "digits_reward", "cifar10_edm", "imagenet64_dit_1b"]


@pytest.mark.whole
@pytest.mark.parametrize(
    "names", [pytest.param(ON_TWO, id="some"), pytest.param(PACKAGED, id="all", marks=pytest.mark.slow)]
)
def test_every_packaged_recipe_trains_on_two_processes_as_on_one(place, monkeypatch, names):
    """Plain DDP, FSDP where the recipe has it: no weight without a gradient, and the losses of one process, up to rounding.

    Both processes, as torchrun starts them, train all recipes in turn.
    """
    monkeypatch.chdir(place)
    for name in names:
        trained(name)
    forked.run_two(*names, program=__file__, cwd=place)
    lines, wrong = [f"{'recipe':<20}{'start':<20}{'world':>6}{'step 1':>14}{'step 2':>14}  from one process's"], []
    for name in names:
        one, two = (losses(place / "runs" / folder) for folder in (name, f"{name}_on_2"))
        precision = recipe.compose(name)["trainer"].get("precision", "32-true")
        is_equal = two == pytest.approx(one, rel=1e-4 if precision == "bf16-mixed" else 1e-5, abs=1e-7)
        apart = max((abs(b - a) / max(abs(a), 1e-7) for a, b in zip(one, two, strict=False)), default=0.0)
        shown = "".join(f"{value:>14.8g}" for value in two)
        lines.append(f"{name:<20}{SMALL[name][0] or '-':<20}{2:>6}{shown}  {apart:.1e} ({precision})")
        wrong += [] if is_equal and len(two) == 2 else [name]
    print("\n".join(["", *lines]))
    assert not wrong, "\n".join(lines)


if __name__ == "__main__":  # one of two processes
    for each in sys.argv[1:]:
        trained(each, processes=2)
