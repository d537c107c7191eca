"""What a scheduler's config says of the network beside it: its prediction, its own time, and the noise levels it is sampled at.

Pure functions of `scheduler_config.json`; defaults are those of the scheduler's constructor, because old files leave values out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...denoiser import TableTime
from ...foundation.errors import UserError

Config = Mapping[str, Any]
Node = dict[str, Any]

# Scheduler -> our solver, the closest in kind.
TABLES = {
    "DDIMInverseScheduler": "euler",
    "DDIMScheduler": "euler",
    "DDPMScheduler": "euler",
    "DEISMultistepScheduler": "deis",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "KDPM2AncestralDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "heun",
    "LCMScheduler": "consistency",
    "LMSDiscreteScheduler": "ipndm",
    "PNDMScheduler": "ipndm",
    "TCDScheduler": "consistency",
    "UniPCMultistepScheduler": "unipc",
}
FLOWS = {
    "FlowMatchEulerDiscreteScheduler": "euler",
    "FlowMatchHeunDiscreteScheduler": "heun",
    "FlowMatchLCMScheduler": "consistency",
}
EDMS = {"EDMDPMSolverMultistepScheduler": "dpmpp_2m", "EDMEulerScheduler": "euler"}
KNOWN = sorted([*TABLES, *FLOWS, *EDMS, "SCMScheduler"])

OF_TABLES = {"epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample"}
OF_EDM = {"epsilon": "edm", "v_prediction": "trigflow"}  # the second is its F with the sign turned
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
LINEAR_START, LINEAR_END = 1e-4, 0.02  # of DDPM (arXiv 2006.11239)
LATENT_START, LATENT_END = 0.00085, 0.012  # of latent diffusion (arXiv 2112.10752)
STARTS = {  # of constructors that have others than DDPM's
    "HeunDiscreteScheduler": (LATENT_START, LATENT_END, "linear"),
    "KDPM2AncestralDiscreteScheduler": (LATENT_START, LATENT_END, "linear"),
    "KDPM2DiscreteScheduler": (LATENT_START, LATENT_END, "linear"),
    "LCMScheduler": (LATENT_START, LATENT_END, "scaled_linear"),
    "TCDScheduler": (LATENT_START, LATENT_END, "scaled_linear"),
}
SCM_ANGLE = 1.3  # of the second step of two, SCMScheduler's own
FLOW_SCALE = 1000.0  # of the time that most flow networks are called with


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model is sampled where nobody says otherwise.

    Args:
        solver: name in `samplers.SOLVERS`.
        grid: name in `schedules.GRIDS`; None for a consistency model, whose levels are its own.
        arguments: of the grid, beside the number of steps.
        levels: of a consistency model after the first, by number of steps.
    """

    solver: str
    grid: str | None = None
    arguments: dict[str, float] = field(default_factory=dict)
    levels: dict[int, list[float]] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """As `model.json` holds it."""
        return {"solver": self.solver, "grid": self.grid, "arguments": self.arguments}

    @property
    def node(self) -> Node | None:
        """The grid as a recipe writes it; None without one."""
        return None if self.grid is None else {"_target_": f"lightning_diff.schedules.{self.grid}", **self.arguments}


@dataclass(frozen=True, kw_only=True)
class Parametrisation:
    """What turns a network into a denoiser, and how that is sampled; for the first four see `Denoiser`.

    Args:
        sigma_data: None where it follows from the data alone.
    """

    prediction: str
    time: str | Node
    kind: str = "denoiser"
    sigma_data: float | None = None
    sampling: Sampling


def parametrisation(
    config: Config, source: Path | str, *, flow_scale: float = FLOW_SCALE, tokens: int | None = None
) -> Parametrisation:
    """Of the network that a scheduler's config goes with.

    Args:
        config: content of `scheduler_config.json`.
        source: that file, for errors.
        flow_scale: of the time that the network is called with, if it is a flow's and the scheduler counts to 1,000, as they do:
            time = flow_scale * s; of one that counts to n it is n / 1000 of that.
        tokens: of an image, for a shift that depends on its size (Flux: one for 2x2 latents).

    Raises:
        UserError: a scheduler, prediction or table that is not known; a value of another type.
    """
    name = config.get("_class_name")
    try:
        if name in EDMS:
            return _edm(config, source, EDMS[name])
        if name == "SCMScheduler":
            return _scm(config, source)
        if name in FLOWS or (name in TABLES and _is_flow(config)):
            return _flow(config, source, flow_scale, tokens)
        if name in TABLES:
            return _table(config, source)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}; compare it with the scheduler's documentation") from error
    raise UserError(f"{source}: _class_name: {name!r} is no scheduler that is known here; known: {', '.join(KNOWN)}")


def table(config: Config, source: Path | str) -> TableTime:
    """The table of a variance-preserving chain. UserError for one that is not known."""
    return TableTime(**_table_arguments(config, source))


def shift_of(config: Config, tokens: int | None = None) -> float:
    """By which a flow scheduler shifts s: its own, or for images of so many tokens (Flux: exp(mu), mu linear in the tokens)."""
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("flow_shift" if config.get("_class_name") in TABLES else "shift", 1.0))
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * ((many if tokens is None else tokens) - few) / (many - few)
    return float(mu if config.get("time_shift_type") == "linear" else math.exp(mu))


def _table(config: Config, source: Path | str) -> Parametrisation:
    prediction = _chosen(config, "prediction_type", "epsilon", OF_TABLES, source)
    clock = table(config, source)
    solver = TABLES[config["_class_name"]]
    if solver == "consistency":
        sampling = Sampling(solver=solver, arguments={"sigma_max": clock.sigmas[-1].item()})
    elif clock.ends_in_noise:
        sampling = Sampling(
            solver=solver, grid="flow", arguments={"sigma_min": clock.sigmas[0].item(), "sigma_max": math.inf}
        )
    else:
        ends = {"sigma_min": clock.sigmas[0].item(), "sigma_max": clock.sigmas[-1].item()}
        sampling = Sampling(solver=solver, grid="karras", arguments=ends)
    kind = "consistency" if solver == "consistency" else "denoiser"
    return Parametrisation(prediction=prediction, time=clock.node(), kind=kind, sampling=sampling)


def _table_arguments(config: Config, source: Path | str) -> dict[str, Any]:
    start, end, betas = STARTS.get(str(config.get("_class_name")), (LINEAR_START, LINEAR_END, "linear"))
    given = config.get("trained_betas")
    if given is None:
        betas = _chosen(config, "beta_schedule", betas, dict(zip(BETAS, BETAS, strict=True)), source)
    steps = int(config.get("num_train_timesteps", 1000)) if given is None else len(given)
    return {
        "steps": steps,
        "betas": betas if given is None else [float(each) for each in given],
        "beta_start": float(config.get("beta_start", start)),
        "beta_end": float(config.get("beta_end", end)),
        "zero_snr": bool(config.get("rescale_betas_zero_snr", False)),
    }


def _is_flow(config: Config) -> bool:
    return bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _flow(config: Config, source: Path | str, scale: float, tokens: int | None) -> Parametrisation:
    name = config["_class_name"]
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        raise UserError(
            f"{source}: prediction_type: {config['prediction_type']!r} with flow sigmas; flow_prediction goes"
        )
    shift, steps = shift_of(config, tokens), float(config.get("num_train_timesteps", 1000))
    if name in TABLES:  # these start a step below pure noise, and end in 0
        solver, ends = TABLES[name], {"sigma_min": 0.0, "sigma_max": shift * (steps - 1)}
    elif config.get("use_dynamic_shifting", False):  # as the pipelines ask them: s from 1 to 1 / n
        solver, ends = FLOWS[name], {"sigma_min": 0.0, "sigma_max": math.inf}
    else:  # the last level before 0 is the table's smallest, shifted by the constructor and by set_timesteps
        entries = steps if steps > 1 else FLOW_SCALE  # of one there is no smallest; it then only says the unit of time
        solver, ends = FLOWS[name], {"sigma_min": shift**2 / (entries - 1), "sigma_max": math.inf}
    time = {"_target_": "lightning_diff.denoiser.FlowTime", "scale": float(scale) * steps / FLOW_SCALE}
    if solver == "consistency":
        return Parametrisation(prediction="flow", time=time, kind=solver, sampling=Sampling(solver=solver))
    sampling = Sampling(solver=solver, grid="flow", arguments={**ends, "shift": shift})
    return Parametrisation(prediction="flow", time=time, sampling=sampling)


def _edm(config: Config, source: Path | str, solver: str) -> Parametrisation:
    """EDM's preconditioning (arXiv 2206.00364), the time ln(sigma) / 4."""
    prediction = _chosen(config, "prediction_type", "epsilon", OF_EDM, source)
    grid = "log_snr" if config.get("sigma_schedule", "karras") == "exponential" else "karras"
    ends = {"sigma_min": float(config.get("sigma_min", 0.002)), "sigma_max": float(config.get("sigma_max", 80.0))}
    arguments = ends if grid == "log_snr" else ends | {"rho": float(config.get("rho", 7.0))}
    return Parametrisation(
        prediction=prediction,
        time="edm",
        sigma_data=float(config.get("sigma_data", 0.5)),
        sampling=Sampling(solver=solver, grid=grid, arguments=arguments),
    )


def _scm(config: Config, source: Path | str) -> Parametrisation:
    """Of SanaSprint: a flow network, called with s itself, that was distilled in TrigFlow.

    The pipeline multiplies latents of variance one by the scheduler's sigma_data, and divides by it again: here they stay as they
    are, sigma_data = 1, and sigma = tan(t). TrigFlow's F is the network's output after a map that `flow` makes (see `predictions`).
    """
    _chosen(config, "prediction_type", "trigflow", {"trigflow": "trigflow"}, source)
    time = {"_target_": "lightning_diff.denoiser.FlowTime", "scale": 1.0}
    sampling = Sampling(
        solver="consistency", arguments={"sigma_max": math.inf}, levels={1: [], 2: [math.tan(SCM_ANGLE)]}
    )
    return Parametrisation(prediction="flow", time=time, kind="consistency", sigma_data=1.0, sampling=sampling)


def _chosen(config: Config, key: str, default: str, known: Mapping[str, str], source: Path | str) -> str:
    value = config.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{source}: {key}: {value!r} is not known here; known: {', '.join(known)}")
    return known[value]
