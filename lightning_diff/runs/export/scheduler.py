"""The scheduler of the diffusers library for a denoiser, and how its pipeline is given a time grid."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...denoiser import FlowTime, TableTime
from ...foundation.errors import UserError
from ...schedules import own_time
from . import families
from .families import Stock
from .source import Source

Arguments = dict[str, Any]
STEPS = 1000  # of a flow's table: s is a whole number of them over it in the library's own grids
EDM_ENDS = {"sigma_min": 0.002, "sigma_max": 80.0}
# By which a network's time is s in its pipeline: time = scale s.
FLOW_SCALES = {"StableDiffusion3Pipeline": 1000.0, "FluxPipeline": 1.0, "SanaSprintPipeline": 1.0}
BOUNDARY = 10_000.0  # of LCMScheduler: c_skip, which a consistency model here has no use for, is then under 3e-9 from index 1 on


@dataclass(frozen=True)
class Scheduler:
    """One for a model.

    Args:
        name: of its class.
        config: its constructor's arguments.
        grid: noise levels -> the arguments of the pipeline's call; None where the pipeline takes the number of steps alone.
        start: the first noise level -> what standard normal latents have to be multiplied by to start there as our samplers do;
            the pipelines themselves start from the noise as it is.
        first: that level where the grid is the scheduler's own.
        note: for the model card.
        needs_grid: whether the scheduler has no grid of its own.
        network: what the network's config has to say for the pipeline to call it with its time.
    """

    name: str
    config: Mapping[str, Any]
    grid: Callable[[Sequence[float]], Arguments] | None
    start: Callable[[float], float]
    first: float
    note: str
    needs_grid: bool = False
    network: Mapping[str, Any] = field(default_factory=dict)


def scheduler(source: Source, stock: Stock) -> Scheduler:
    """UserError where the pipeline has none for the network's prediction and time, or the denoiser is clamped."""
    record, clock = source.record, source.denoiser.clock
    if (bounds := source.denoiser.bounds) is not None:  # the pipelines of latents set clip_sample to False themselves
        raise _refused(source, stock, f"that is clamped to {bounds[0]:g} to {bounds[1]:g}", "its output as it is")
    prediction = source.denoiser.prediction
    if prediction == "flow" and isinstance(clock, FlowTime):
        if stock is families.SANA:  # whose pipeline multiplies by a number in the network's config
            return replace(_flow(STEPS, record.kind == "consistency"), network={"timestep_scale": clock.scale / STEPS})
        usual = FLOW_SCALES.get(stock.pipeline)
        steps = 0.0 if usual is None else STEPS * clock.scale / usual
        if steps < 1 or steps != round(steps):
            takes = "another time" if usual is None else f"{usual:g} s, or a multiple of {usual / STEPS:g} s"
            raise _refused(source, stock, f"called with {clock.scale:g} s", takes)
        return _sprint() if stock is families.SPRINT else _flow(round(steps), record.kind == "consistency")
    if prediction in ("epsilon", "v_prediction", "sample") and isinstance(clock, TableTime):
        return _table(source, stock, clock, prediction)
    if (
        prediction == "edm"
        and source.denoiser.time == "edm"
        and record.kind == "denoiser"
        and stock in (families.SD, families.SDXL, families.PIXART, families.CLASSES)
    ):
        return _edm(record.sigma_data, stock)
    raise _refused(source, stock, f"that predicts {prediction} with its time", "none that its schedulers make")


def _flow(steps: int, is_consistency: bool) -> Scheduler:
    """SD3's network is called with `steps` times s, Flux' with a thousandth of it. Only for 1000 is there a grid of its own."""
    name = "FlowMatchLCMScheduler" if is_consistency else "FlowMatchEulerDiscreteScheduler"
    note = "sigmas= are s = sigma / (1 + sigma); the scheduler's shift is 1, so that they are taken as they are"
    return Scheduler(
        name,
        {"num_train_timesteps": steps, "shift": 1.0},
        lambda sigmas: {"sigmas": own_time.flow_sigmas(sigmas)},
        lambda sigma: own_time.flow_sigmas([sigma, 0.0])[0],
        math.inf,
        note if steps == STEPS else f"{note}; without sigmas= it makes no grid, since the network's time is not 1000 s",
        needs_grid=steps != STEPS,
    )


def _sprint() -> Scheduler:
    return Scheduler(
        "SCMScheduler",
        {"sigma_data": 0.5},
        _sprint_grid,
        _of_variance_one,
        math.inf,
        "max_timesteps= and intermediate_timesteps= are angles t = arctan(sigma) of the first and the second step; with three "
        "steps or more the angles are even",
    )


def _sprint_grid(sigmas: Sequence[float]) -> Arguments:
    """Its pipeline cannot hand `timesteps=` to its scheduler (diffusers 0.42), which has two angles of one's own beside them."""
    first, *later = own_time.angles(sigmas)[:-1]
    second = later[0] if len(later) == 1 else None
    return {"num_inference_steps": 1 + len(later), "max_timesteps": first, "intermediate_timesteps": second}


def _table(source: Source, stock: Stock, clock: TableTime, prediction: str) -> Scheduler:
    given: dict[str, Any] = (
        {"trained_betas": clock.betas} if isinstance(clock.betas, list) else {"beta_schedule": clock.betas}
    )
    table = {
        "num_train_timesteps": clock.steps,
        "beta_start": clock.beta_start,
        "beta_end": clock.beta_end,
        "prediction_type": prediction,
        "timestep_spacing": "trailing",
        "steps_offset": 1,  # of no effect here, but the pipelines warn of others
        **given,
    }
    whole = lambda sigmas: {"timesteps": own_time.table_timesteps(sigmas, clock)}  # noqa: E731
    last = clock.sigmas[-1].item()
    if source.record.kind == "consistency":
        if stock is families.DIT or clock.zero_snr:
            raise _refused(source, stock, "that is a consistency model", "no fresh noise between its steps")
        extra = {"timestep_scaling": BOUNDARY, "clip_sample": False, "set_alpha_to_one": True}
        return Scheduler(
            "LCMScheduler", table | extra, whole, _of_variance_one, last, "timesteps= are whole indices of the table"
        )
    if clock.zero_snr or stock in (families.DIT, families.PIXELS):
        extra = {"clip_sample": False, "set_alpha_to_one": True, "rescale_betas_zero_snr": clock.zero_snr}
        return Scheduler(
            "DDIMScheduler", table | extra, None, _of_variance_one, last, "the pipeline takes the number of steps alone"
        )
    if stock is families.CLASSES:
        return Scheduler(
            "EulerDiscreteScheduler", table, whole, _as_it_is, last, "timesteps= are whole indices of the table"
        )
    return Scheduler(
        "EulerDiscreteScheduler",
        table,
        lambda sigmas: {"sigmas": own_time.table_sigmas(sigmas)},
        _as_it_is,
        last,
        "sigmas= are noise levels of x0 + sigma eps, and a 0 at the end",
    )


def _edm(sigma_data: float, stock: Stock) -> Scheduler:
    return Scheduler(
        "EDMEulerScheduler",
        {"sigma_data": sigma_data, "prediction_type": "epsilon", **EDM_ENDS},
        None,
        _of_variance_one,
        EDM_ENDS["sigma_max"],
        "the grid is EDM's own (rho 7); the pipeline takes the number of steps alone",
    )


def _as_it_is(sigma: float) -> float:
    """The scheduler multiplies by sigma itself."""
    return 1.0


def _of_variance_one(sigma: float) -> float:
    """sigma / sqrt(1 + sigma^2): of latents x / sqrt(1 + sigma^2), of which the noise alone is drawn."""
    return 1.0 if math.isinf(sigma) else sigma / math.hypot(1.0, sigma)


def _refused(source: Source, stock: Stock, what: str, takes: str) -> UserError:
    return UserError(
        f"export: {stock.pipeline} does not run a {source.network_name} {what}: it takes {takes}; --to onnx and --to pt2 do"
    )
