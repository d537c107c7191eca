"""Exported folders: the stock pipeline loads them and draws, from the same noise, what our sampler draws."""

import copy
import json
import math

import diffusers
import pytest
import torch
from diffusers_models import MODELS, condition, make, shapes
from messages import tells

from lightning_diff.artifacts import import_pipeline, keep_levels, read_record, save_denoiser
from lightning_diff.artifacts.schedule import Schedule, save_schedule
from lightning_diff.condition import Condition
from lightning_diff.denoiser import Denoiser, FlowTime, TableTime
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import lora
from lightning_diff.runs.export import write
from lightning_diff.runs.export.families import FLUX, PIXART, SANA, SD, SD3, SDXL
from lightning_diff.runs.export.source import Source
from lightning_diff.samplers import consistency, euler, pure_noise

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the library's
LATENT = TableTime(betas="scaled_linear", beta_start=0.00085, beta_end=0.012)
STOCKS = {"sd15": SD, "sdxl": SDXL, "sd3": SD3, "flux": FLUX, "sana": SANA, "sana_guided": SANA, "pixart": PIXART}
INPUTS = {name: stock.inputs for name, stock in STOCKS.items()}


def saved(folder, name, *, schedule=None, classes=0, levels=None, **how):
    """A run folder with a network of the library."""
    net = make(name)
    class_name, config, shape = MODELS[name]
    node = {
        "_target_": "lightning_diff.nets.Diffusers",
        "class_name": class_name,
        "config": config,
        "shape": list(shape),
    }
    more = {"condition_shapes": shapes(name)} if net.condition_shapes else {}
    more |= {"num_classes": classes} if classes else {}
    how = {"time": net.family.time(net.config), "prediction": net.family.prediction} | how
    denoiser = Denoiser(net, **how).eval()
    plain = json.loads(json.dumps(node | more))
    save_denoiser(folder, denoiser, plain, shape=shape, num_classes=classes)
    for steps, found in (levels or {}).items():
        assert steps == len(found) + 1
        keep_levels(folder, found)
    if schedule is not None:
        found = Schedule(sigmas=schedule, method="art", solver="euler", protocol={}, model="")
        save_schedule(folder, found)
    return denoiser


def opened(folder):
    """The pipeline, as its card loads it."""
    index = json.loads((folder / "model_index.json").read_text())
    kind = getattr(diffusers, index["_class_name"])
    nothing = {
        name: None for name, value in index.items() if value == [None, None] and name not in kind._optional_components
    }
    pipeline = kind.from_pretrained(folder, **nothing)
    pipeline.set_progress_bar_config(disable=True)
    card = (folder / "README.md").read_text()
    assert all(f"{name}=None" in card for name in nothing)
    assert str(folder.parents[1]) not in card
    sampling = json.loads((folder / "sampling.json").read_text())
    return pipeline, sampling["arguments"], sampling["start"]


def drawn(pipeline, arguments, start, name, label, eps, seed=None):
    """Latents of the pipeline."""
    eps = start * eps
    if name in INPUTS:
        given = {INPUTS[name][key]: each for key, each in label.tensors.items() if key in INPUTS[name]}
    else:
        given = {"class_labels": label}
    if name == "sana_guided" or name.startswith("sana"):
        given["prompt_attention_mask"] = given["prompt_attention_mask"].long()
    if seed is not None:
        torch.manual_seed(seed)
    packed = eps if name != "flux" else pipeline._pack_latents(eps, *eps.shape)
    found = pipeline(latents=packed.clone(), **{**given, **arguments}).images
    return found if name != "flux" else pipeline._unpack_latents(found, 64, 64, 8)


def close(one, other):
    return (one - other).norm() < 1e-4 * other.norm() and other.isfinite().all()


def ours(denoiser, eps, sigmas, label, solver=euler, start=None, **how):
    """Latents of our sampler."""
    with torch.no_grad():
        first = (lambda x, _: denoiser.from_noise(x, label)) if sigmas[0].isinf() else None
        denoise = lambda x, sigma: denoiser(x, sigma, label)  # noqa: E731
        if start is not None:
            return solver(denoise, start, sigmas, **how)
        return pure_noise.solve(solver, denoise, eps, sigmas, from_noise=first, **how)


@pytest.fixture
def eps():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


GRID = [80.0, 12.0, 3.0, 1.0, 0.3, 0.0]


@pytest.mark.parametrize("schedule", [None, GRID], ids=["its own grid", "a learned grid"])
@pytest.mark.parametrize("name", ["sd3", "flux", "sana"])
def test_flow_pipelines(tmp_path, name, schedule, eps):
    denoiser = saved(tmp_path / "run", name, schedule=schedule)
    folder = write(tmp_path / "run", "diffusers").path
    pipeline, *how = opened(folder)
    label = condition(denoiser.net)
    theirs = drawn(pipeline, *how, name, label, eps)
    s = pipeline.scheduler.sigmas.double()
    sigmas = s / (1 - s)
    if schedule is not None:
        assert torch.allclose(sigmas, torch.tensor(schedule, dtype=torch.float64), rtol=1e-4)
    assert close(ours(denoiser, eps, sigmas, label), theirs)


@pytest.mark.parametrize("name", ["sd3", "sana"])
def test_flow_pipelines_of_networks_that_are_called_with_s_itself(tmp_path, name, eps):
    """As `retime` trains them: SD3's scheduler counts to one, and Sana's network has a `timestep_scale`."""
    denoiser, label = saved(tmp_path / "run", name, time=FlowTime()), condition(make(name))
    folder = write(tmp_path / "run", "diffusers").path
    pipeline, *call = opened(folder)
    theirs = drawn(pipeline, *call, name, label, eps)
    s = pipeline.scheduler.sigmas.double()
    assert len(s) > 4
    assert close(ours(denoiser, eps, s / (1 - s), label), theirs)
    import_pipeline(folder, tmp_path / "back", size=8)
    assert read_record(tmp_path / "back").time == {"_target_": "lightning_diff.denoiser.FlowTime", "scale": 1.0}


def table_levels(scheduler, time):
    """Of DDIM and LCM: those of its whole indices."""
    return torch.cat([time.sigmas[scheduler.timesteps.long()], torch.zeros(1, dtype=torch.float64)])


@pytest.mark.parametrize(
    ("name", "schedule", "how"),
    [
        ("sd15", None, {"time": LATENT}),
        ("sd15", [14.0, 5.0, 1.0, 0.2, 0.0], {"time": LATENT, "prediction": "v_prediction"}),
        ("sdxl", [14.0, 5.0, 1.0, 0.2, 0.0], {"time": LATENT}),
        ("pixart", [150.0, 20.0, 3.0, 0.5, 0.0], {}),
        ("pixart", None, {"prediction": "sample"}),
    ],
)
def test_table_pipelines(tmp_path, name, schedule, how, eps):
    denoiser = saved(tmp_path / "run", name, schedule=schedule, **how)
    pipeline, *call = opened(write(tmp_path / "run", "diffusers").path)
    label = condition(denoiser.net)
    if name == "sdxl":
        sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]).expand(2, 6)
        label = Condition(label.tensors | {"time_ids": sizes})
    theirs = drawn(pipeline, *call, name, label, eps)
    sigmas = pipeline.scheduler.sigmas.double()
    if schedule is not None:
        assert torch.allclose(sigmas, torch.tensor(schedule, dtype=torch.float64), rtol=1e-5)
    assert close(ours(denoiser, eps, sigmas, label), theirs)


def test_a_table_that_ends_in_pure_noise_starts_there(tmp_path, eps):
    time = TableTime(betas="scaled_linear", beta_start=0.00085, beta_end=0.012, zero_snr=True)
    denoiser = saved(tmp_path / "run", "sd15", time=time, prediction="v_prediction")
    pipeline, *call = opened(write(tmp_path / "run", "diffusers").path)
    label = condition(denoiser.net)
    theirs = drawn(pipeline, *call, "sd15", label, eps)
    sigmas = table_levels(pipeline.scheduler, time)
    assert sigmas[0].isinf()
    assert close(ours(denoiser, eps, sigmas, label), theirs)


def test_edm_in_a_pipeline_of_latents(tmp_path, eps):
    denoiser = saved(tmp_path / "run", "sd15", time="edm", prediction="edm", sigma_data=0.8)
    pipeline, *call = opened(write(tmp_path / "run", "diffusers").path)
    label = condition(denoiser.net)
    theirs = drawn(pipeline, *call, "sd15", label, eps)
    assert close(ours(denoiser, eps, pipeline.scheduler.sigmas.double(), label), theirs)


@pytest.mark.parametrize("schedule", [None, [157.0, 20.0, 3.0, 0.5, 0.0]])
def test_a_u_net_of_pixels_with_classes(tmp_path, schedule):
    denoiser = saved(tmp_path / "run", "unet", classes=3, schedule=schedule, sigma_data=0.5)
    eps = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    pipeline, *call = opened(write(tmp_path / "run", "diffusers").path)
    label = torch.tensor([2])
    noise = torch.Generator().manual_seed(3)
    theirs = pipeline(class_labels=2, generator=noise, output_type="pt", **call[0]).images
    assert call[1] == 1
    sigmas = pipeline.scheduler.sigmas.double()
    assert close((ours(denoiser, eps, sigmas, label) / 2 + 0.5).clamp(0, 1), theirs)
    if schedule is not None:
        assert torch.allclose(sigmas, torch.tensor(schedule, dtype=torch.float64), rtol=0.02)


# --- consistency models ---


@pytest.mark.parametrize(("name", "how"), [("sd3", {}), ("sd3", {"time": FlowTime()}), ("sana", {}), ("flux", {})])
def test_a_consistency_model_in_flow_time(tmp_path, name, how, eps):
    grid = [80.0, 2.0, 0.5, 0.0]
    denoiser = saved(tmp_path / "run", name, kind="consistency", levels={3: grid[1:-1]}, schedule=grid, **how)
    pipeline, *call = opened(write(tmp_path / "run", "diffusers").path)
    assert type(pipeline.scheduler).__name__ == "FlowMatchLCMScheduler"
    label = condition(denoiser.net)
    theirs = drawn(pipeline, *call, name, label, eps, seed=5)
    torch.manual_seed(5)

    def noise(x, step):
        if name != "flux":
            return torch.randn(eps.shape)
        return pipeline._unpack_latents(torch.randn(2, 16, 16), 64, 64, 8)

    sigmas = torch.tensor(grid, dtype=torch.float64)
    assert close(ours(denoiser, eps, sigmas, label, solver=consistency, generator=noise), theirs)


@pytest.mark.parametrize("levels", [[], [math.tan(1.3)]], ids=["one step", "two steps"])
def test_a_consistency_model_of_sana_through_sprint_and_scm(tmp_path, levels, eps):
    grid = [math.tan(1.57), *levels, 0.0]
    denoiser = saved(
        tmp_path / "run", "sana_guided", kind="consistency", time=FlowTime(), sigma_data=0.6, schedule=grid
    )
    pipeline, *call = opened(write(tmp_path / "run", "diffusers").path)
    assert type(pipeline).__name__, type(pipeline.scheduler).__name__ == ("SanaSprintPipeline", "SCMScheduler")
    label = condition(denoiser.net)
    theirs = drawn(pipeline, call[0] | {"guidance_scale": 4.5}, call[1], "sana_guided", label, eps, seed=5)
    torch.manual_seed(5)
    scale = torch.full((2,), 4.5)
    sigmas = torch.tensor(grid, dtype=torch.float64)
    with torch.no_grad():
        own = consistency(lambda x, sigma: denoiser(x, sigma, label, guidance=scale), sigmas[0].item() * eps, sigmas)
    assert close(own, theirs)


def test_a_consistency_model_of_a_table(tmp_path, eps):
    grid = [14.0, 2.0, 0.5, 0.0]
    denoiser = saved(tmp_path / "run", "sd15", kind="consistency", time=LATENT, schedule=grid)
    pipeline, *call = opened(write(tmp_path / "run", "diffusers").path)
    label = condition(denoiser.net)
    theirs = drawn(pipeline, *call, "sd15", label, eps, seed=5)
    sigmas = table_levels(pipeline.scheduler, LATENT)
    assert torch.allclose(sigmas, torch.tensor(grid, dtype=torch.float64), rtol=0.05)
    torch.manual_seed(5)
    start = call[1] * (1 + sigmas[0] ** 2).sqrt().item() * eps
    assert close(ours(denoiser, eps, sigmas, label, solver=consistency, start=start), theirs)


def test_a_clamped_model_is_refused_because_the_pipelines_do_not_clamp(tmp_path):
    saved(tmp_path / "run", "sd15", bounds=(-1.0, 1.0), kind="consistency", time=LATENT)
    with pytest.raises(UserError) as error:
        write(tmp_path / "run", "diffusers")
    assert tells(str(error.value), "export: ... clamped to -1 to 1 ... --to onnx")


# --- adapters ---


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "layers"), [("sd3", "*attn.to_*"), ("sd15", "*"), ("flux", "*attn.to_*"), ("sana", "*attn1.to_*")]
)
def test_adapters_are_read_by_the_stock_pipeline(tmp_path, name, layers, eps, monkeypatch):
    base = saved(tmp_path / "base", name, **({"time": LATENT} if name == "sd15" else {}))
    pipeline, *call = opened(write(tmp_path / "base", "diffusers").path)
    label = condition(base.net)
    plain = drawn(pipeline, *call, name, label, eps)
    denoiser = adapted(base, layers)
    monkeypatch.setattr(
        "lightning_diff.runs.export.targets.of_run", lambda *_, **__: as_source(tmp_path / "base", denoiser)
    )
    made = write(tmp_path / "base", "lora")
    pipeline.load_lora_weights(made.path)
    theirs = drawn(pipeline, *call, name, label, eps)
    s = pipeline.scheduler.sigmas.double()
    sigmas = s if name == "sd15" else s / (1 - s)
    assert close(ours(denoiser, eps, sigmas, label), theirs)
    assert not close(plain, theirs)


def adapted(base, layers):
    """The denoiser with adapters that change it."""
    net = copy.deepcopy(base.net)
    torch.manual_seed(1)
    lora.LoRA(rank=3, alpha=5.0, layers=[f"model.{layers}"]).adapt(net)
    for part_name, parameter in net.named_parameters():
        if part_name.endswith(".B"):
            torch.nn.init.normal_(parameter, std=0.3)
    return base.around(net).eval()


def as_source(folder, denoiser):
    """As of a run whose checkpoint has adapters."""
    return Source(folder, read_record(folder), denoiser, denoiser.net.state_dict())
