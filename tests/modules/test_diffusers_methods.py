"""The four methods on each class of the diffusers library that is known."""

from pathlib import Path

import conditioned
import forked
import pytest
import torch
import yaml
from diffusers_models import MODELS, make
from safetensors.torch import load_file

from lightning_diff.artifacts import save_denoiser
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.artifacts.schedule import load_schedule
from lightning_diff.denoiser import Denoiser
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run

CLASSES = ["unet", "sd15", "dit", "pixart", "sd3", "flux", "sana"]
FEW = ["sd3", "unet"]  # in every run of the tests
OTHERS = [name for name in CLASSES if name not in FEW]


def save(name: str) -> Denoiser:
    """A model of random weights in runs/NAME."""
    net = make(name)
    class_name, config, shape = MODELS[name]
    node = {
        "_target_": "lightning_diff.nets.Diffusers",
        "class_name": class_name,
        "config": config,
        "shape": list(shape),
    }
    if net.condition_shapes:
        net.keep_null_condition(conditioned.Random(1, shape, net.condition_shapes, 0).null_condition)
    node |= {"condition_shapes": {key: list(each) for key, each in net.condition_shapes.items()}}
    node |= {"num_classes": net.num_classes} if net.num_classes else {}
    denoiser = Denoiser(net, 1.0, net.family.time(net.config), prediction=net.family.prediction)
    save_denoiser(f"runs/{name}", denoiser, node, shape=shape, num_classes=net.num_classes)
    return denoiser


def write(name: str, run_name: str, model: dict, **more) -> str:
    net = make(name)
    data = {"_target_": "conditioned.Drawn", "size": list(net.shape), "batch_size": 8, "classes": net.num_classes}
    data |= {"conditions": {key: list(each) for key, each in net.condition_shapes.items()}}
    optimizer = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 2.0}
    trainer = {"accelerator": "cpu", "max_steps": 2, "log_every_n_steps": 1, "gradient_clip_val": 1.0}
    whole = {"name": run_name, "model": {**model, "optimizer": optimizer}, "data": data, "trainer": trainer}
    Path(f"{run_name}.yaml").write_text(yaml.safe_dump(whole | more))
    return f"{run_name}.yaml"


def student(name: str, run_name: str, **more) -> str:
    model = {
        "_target_": "lightning_diff.ConsistencyModule",
        "teacher": f"runs/{name}",
        "warmup": 0,
        "guidance": [1.0, 3.0],
    }
    model |= more
    return write(name, run_name, model)


def train(path: str, *overrides: str) -> Path:
    run.train(recipe.load(path, overrides), path)
    return Path("runs") / Path(path).stem


def apart(one: Path, other: Path) -> float:
    """Relative difference of the weights."""
    here, there = (load_file(folder / "model.safetensors") for folder in (one, other))
    parts = [torch.cat([each[name].flatten().double() for name in sorted(here)]) for each in (here, there)]
    return float((parts[0] - parts[1]).norm() / parts[1].norm())


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def distilled_on_two(names: list[str]) -> None:
    """Two steps of guided distillation, on one process and on two; prints a table of differences."""
    for name in names:
        save(name)
    one = [train(student(name, f"{name}_one")) for name in names]
    forked.run_two("train", *(student(name, f"{name}_two") for name in names), "trainer.devices=2")
    for name, folder in zip(names, one, strict=True):
        difference, moved = apart(Path(f"runs/{name}_two"), folder), load_file(folder / "model.safetensors")
        assert any("guidance" in key or "cond_proj" in key for key in moved)
        start = load_file(f"runs/{name}/model.safetensors")
        step = max(
            float((moved[key].float() - value.float()).abs().max()) for key, value in start.items() if key in moved
        )
        print(f"{name:>8}: one process and two differ by {difference:.1e}, and moved by up to {step:.2g}")
        assert difference < 1e-5
        assert step > 1e-2


@pytest.mark.whole
def test_a_distilled_step_on_two_processes_is_that_of_one():
    distilled_on_two(FEW)


@pytest.mark.slow
def test_a_distilled_step_of_the_other_classes_on_two_processes_is_that_of_one():
    distilled_on_two(OTHERS)


def losses(folder: Path) -> torch.Tensor:
    rows = [row for row in read(folder / "metrics.csv") if row["metric"] == "train/loss"]
    return torch.tensor([float(row["value"]) for row in rows], dtype=torch.float64)


@pytest.mark.whole
def test_tangents_by_central_differences_train_nearly_as_those_of_forward_mode():
    save("sd3")
    exact, central = (train(student("sd3", how, derivative=how)) for how in ("jvp", "central"))
    torch.testing.assert_close(losses(central), losses(exact), rtol=1e-2, atol=1e-2)
    discrete = train(student("sd3", "discrete", derivative="discrete", objective="training", guidance=None))
    assert losses(discrete).isfinite().all()


def aligned(name: str, run_name: str) -> str:
    model = {
        "_target_": "lightning_diff.AlignmentModule",
        "model": f"runs/{name}",
        "reward": {"_target_": "conditioned.brightest", "_partial_": True},
        "lora": {"_target_": "lightning_diff.nets.lora.LoRA", "rank": 2},
        "copy": {"_target_": "lightning_diff.precision.quantized_copy", "_partial_": True, "smallest": 8},
        "loss": {"_target_": "lightning_diff.rollouts.RewardLoss", "levels": 2},
        "plan": {
            "_target_": "lightning_diff.rollouts.Plan",
            "prompts": 2,
            "pool": 4,
            "keep": 2,
            "steps": 3,
            "preview_steps": 2,
            "precision": "int8",
            "batch": 8,
        },
    }
    return write(name, run_name, model)


def rewarded(name: str) -> None:
    """Two steps, killed after one or not; what is left is a plain model with other weights."""
    save(name)
    whole = train(aligned(name, f"{name}_reward"))
    train(aligned(name, f"{name}_parts"), "trainer.max_steps=1")
    parts = train(f"{name}_parts.yaml")
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    start, weights = load_file(f"runs/{name}/model.safetensors"), load_file(whole / "model.safetensors")
    assert start.keys() == weights.keys()
    assert apart(whole, Path(f"runs/{name}")) > 1e-3


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's, of RMS norms under autocast
def test_a_reward_trains_adapters_of_the_librarys_network():
    rewarded("sd3")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("name", [name for name in CLASSES if name != "sd3"])
def test_a_reward_trains_adapters_of_every_class(name):
    rewarded(name)


@pytest.mark.whole
def test_training_starts_from_a_model_of_the_library_and_a_grid_is_learned_for_its_pipeline():
    denoiser = save("sd3")
    more = train(write("sd3", "more", {"_target_": "lightning_diff.DiffusionModule", "start": "runs/sd3"}))
    assert 0 < apart(more, Path("runs/sd3")) < 1
    learner = {"_target_": "lightning_diff.schedules.StickBreaking", "steps": 4, "width": 8}
    grid = train(
        write("sd3", "grid", {"_target_": "lightning_diff.ScheduleModule", "model": "runs/sd3", "learner": learner})
    )
    levels = denoiser.pipeline_levels(load_schedule(grid).grid(), shift=3.0)["sigmas"]
    assert len(levels) == 4
    assert 1 > levels[0] > levels[-1] > 0
