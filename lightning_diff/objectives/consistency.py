"""The continuous-time consistency loss (sCM, arXiv 2410.11081), for training (sCT) and for distillation (sCD)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from .. import tangent
from ..condition import AnyCondition
from ..denoiser import Denoiser, Position
from ..foundation.devices import same_random_numbers
from ..noise import sigma_to_t

Normalisation = Literal["l2", "rms", "clip", "none"]
Derivative = Literal["jvp", "two_pass", "central", "discrete"]
Student = Callable[..., Tensor]


class ConsistencyLoss(NamedTuple):
    """What one batch gives.

    Args:
        loss: (B,) |F - F⁻ - g|^2 averaged over dimensions, unweighted, with the gradient that trains.
        tangent: (B, ...) g before it is normalised, in the images' units.
        dF_dt: (B, ...) the network's total derivative along the trajectory.
    """

    loss: Float[Tensor, " b"]
    tangent: Float[Tensor, "b ..."]
    dF_dt: Float[Tensor, "b ..."]


def consistency_loss(
    denoiser: Denoiser,
    x0: Float[Tensor, "b ..."],
    sigma: Float[Tensor, " b"],
    noise: Float[Tensor, "b ..."],
    label: AnyCondition | None = None,
    *,
    teacher: Denoiser | None = None,
    guidance: Float[Tensor, " b"] | None = None,
    warmup: float | Float[Tensor, ""] = 1.0,
    normalisation: Normalisation = "l2",
    c: float = 0.1,
    derivative: Derivative = "jvp",
    step: float = 3e-3,
    levels: int = 1024,
    **conditioning: Tensor | None,
) -> ConsistencyLoss:
    """sCM's algorithm 1, up to its learned weight, which is one of `weighting`'s.

    With t = arctan(sigma / sigma_data) and z = sigma_data noise, at x_t = cos(t) x0 + sin(t) z the consistency function is
    f = cos(t) x_t - sin(t) sigma_data F(x_t / sigma_data, t), the denoiser's own formula. Its rearranged tangent is

        g = -cos^2(t) (sigma_data F⁻ - dx/dt) - r (cos(t) sin(t) x_t + sigma_data cos(t) sin(t) dF⁻/dt),

    which at r = 1 is cos(t) df⁻/dt; dx/dt is cos(t) z - sin(t) x0 in training, the teacher's velocity in distillation.
    F⁻ has F's weights and F's dropout mask.

    Args:
        denoiser: the student. F is the network with TrigFlow's sign; an EDM-conditioned network gives the same g.
        x0: clean images.
        sigma: noise levels, > 0, in any precision; coefficients are computed in float64.
        noise: standard normal, shaped like x0.
        label: classes, a `Condition`, or None.
        teacher: a denoiser with the same sigma_data, in eval mode: distillation. None: training.
        guidance: scale of each sample's classifier-free guidance, for distillation. The student's network receives it as the
            conditioning `guidance`.
        warmup: r in [0, 1], the share of the tangent that the network's own derivative has.
        normalisation: of a sample's g: "l2" g / (|g|_2 + c), "rms" g / (rms of g + c), "clip" each element to [-1, 1], or "none".
        c: > 0; see `normalisation`.
        derivative: "jvp" takes F and its derivative from one pass; "two_pass" the derivative from one of its own without a graph,
            for networks with activation checkpointing or shards. For networks without forward-mode rules: "central", a difference
            of two evaluations, and "discrete", the discrete-time loss, whose second time is one step of EDM's grid below the first.
        step: of the central difference, in ln sigma. Half-precision networks have no step at which it is good.
        levels: of EDM's grid (rho 7, 0.002 to 80). The paper's best are around 1024; with more, rounding wins.
        conditioning: handed to the networks as it is.
    """
    sigma = sigma.double()
    u, v = _trajectory(x0, noise, sigma, denoiser.sigma_data)  # x_t and dx/dt, over sigma_data
    if teacher is not None:
        v = _velocity(teacher, u, sigma, label, guidance, conditioning)
    if guidance is not None:
        conditioning = conditioning | {"guidance": guidance}
    student = partial(_trigflow_output, denoiser, label, conditioning)
    if derivative == "discrete":
        F, first, second, dF_dt = _discrete(student, denoiser, u, v, sigma, levels)
    else:
        F, first, second, dF_dt = _continuous(student, denoiser, u, v, sigma, derivative, step)
    g = -denoiser.sigma_data * (first * (F.detach() - v) + warmup * second)
    loss = (F - F.detach() - _normalised(g, normalisation, c)).square().flatten(1).mean(1)
    return ConsistencyLoss(loss, g, dF_dt)


def _trajectory(x0: Tensor, noise: Tensor, sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """The straight path through x0 and noise: (x_t, dx/dt) / sigma_data at t = arctan(sigma / sigma_data)."""
    cos, sin = _cos_sin(sigma, sigma_data, x0)
    clean = x0 / sigma_data
    return cos * clean + sin * noise, cos * noise - sin * clean


def _continuous(
    student: Student, denoiser: Denoiser, u: Tensor, v: Tensor, sigma: Tensor, derivative: Derivative, step: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """F with its graph, cos^2(t), the second bracket of g over sigma_data, and dF/dt.

    Since cos(t) sin(t) d/dt = d/d ln sigma, the derivative of the network is taken along (cos(t) sin(t) dx/dt / sigma_data,
    d position / d ln sigma), where nothing diverges at either end of t: EDM's c_noise = ln(sigma) / 4 has the rate 1/4, TrigFlow's
    c_noise = t has cos(t) sin(t), coefficients of other predictions have their own. The result already has the factor
    cos(t) sin(t) and lacks sigma_data.
    """
    cos, sin = _cos_sin(sigma, denoiser.sigma_data, u)
    primals = u, *_flat(denoiser.position(sigma, u))
    tangents = cos * sin * v, *_flat(denoiser.position_rate(sigma, u))
    if derivative not in ("jvp", "two_pass", "central"):
        raise ValueError(
            f"consistency_loss: derivative must be one of {', '.join(get_args(Derivative))}, got {derivative!r}"
        )
    if derivative == "jvp":
        F, dF = tangent.jvp(student, primals, tangents)
    else:
        with torch.no_grad(), same_random_numbers(u.device) as rewind:
            if derivative == "two_pass":
                dF = tangent.jvp(student, primals, tangents)[1]
            else:
                ahead = student(*(p + step * d for p, d in zip(primals, tangents, strict=True)))
                rewind()
                behind = student(*(p - step * d for p, d in zip(primals, tangents, strict=True)))
                dF = (ahead - behind) / (2 * step)
        F = student(*primals)
    return F, cos**2, cos * sin * u + dF, dF / (cos * sin)


def _discrete(
    student: Student, denoiser: Denoiser, u: Tensor, v: Tensor, sigma: Tensor, levels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same between t and the next lower time t' of the solver's step x_t' = cos(t - t') x_t - sin(t - t') dx/dt (dsCD)."""
    cos, _ = _cos_sin(sigma, denoiser.sigma_data, u)
    sigma_next = _one_level_below(sigma, levels)
    cos_next, sin_next = _cos_sin(sigma_next, denoiser.sigma_data, u)
    span = _as_column(sigma_to_t(sigma, denoiser.sigma_data) - sigma_to_t(sigma_next, denoiser.sigma_data), u)
    with torch.no_grad(), same_random_numbers(u.device):
        F_next = student(span.cos() * u - span.sin() * v, *_flat(denoiser.position(sigma_next, u)))
    F = student(u, *_flat(denoiser.position(sigma, u)))
    rate = (span.cos() * F.detach() - F_next) / span.sin()
    return F, cos * cos_next, cos * sin_next * (u + rate), (F.detach() - F_next) / span


@torch.no_grad()
def _velocity(
    teacher: Denoiser,
    u: Tensor,
    sigma: Tensor,
    label: AnyCondition | None,
    guidance: Tensor | None,
    conditioning: dict[str, Tensor | None],
) -> Tensor:
    """dx/dt / sigma_data by the teacher, guided: F_without + scale (F - F_without), or as its own input for the scale has it."""
    position = _flat(teacher.position(sigma, u))
    if guidance is not None and getattr(teacher.net, "guided", False):  # which was distilled itself
        return _trigflow_output(teacher, label, conditioning | {"guidance": guidance}, u, *position)
    F = _trigflow_output(teacher, label, conditioning, u, *position)
    if guidance is None:
        return F
    F_without = _trigflow_output(teacher, None, conditioning, u, *position)
    return F_without + _as_column(guidance, u) * (F - F_without)


def _trigflow_output(
    denoiser: Denoiser, label: AnyCondition | None, conditioning: dict[str, Tensor | None], u: Tensor, *position: Tensor
) -> Tensor:
    """F with TrigFlow's sign."""
    return denoiser.velocity_at(u, Position(position[0], position[1:]), label, **conditioning)


def _flat(position: Position) -> tuple[Tensor, ...]:
    return position.c_noise, *position.coefficients


def _normalised(g: Tensor, how: Normalisation, c: float) -> Tensor:
    if how == "none":
        return g
    if how == "clip":
        return g.clamp(-1, 1)
    if how not in ("l2", "rms"):
        raise ValueError(
            f"consistency_loss: normalisation must be one of {', '.join(get_args(Normalisation))}, got {how!r}"
        )
    norm = g.flatten(1).norm(dim=1)
    if how == "rms":
        norm = norm / math.sqrt(g[0].numel())
    return g / _as_column(norm + c, g)


def _one_level_below(sigma: Float[Tensor, " b"], levels: int) -> Float[Tensor, " b"]:
    """One step of EDM's grid down from sigma, wherever between its nodes that lies; positive."""
    rho, smallest, largest = 7, 0.002, 80.0
    root = sigma ** (1 / rho)
    stride = (largest ** (1 / rho) - smallest ** (1 / rho)) / (levels - 1)
    return torch.maximum(root - stride, root / 2) ** rho


def _cos_sin(sigma: Float[Tensor, " b"], sigma_data: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of t, to broadcast against x."""
    hypotenuse = (sigma**2 + sigma_data**2).sqrt()
    return _as_column(sigma_data / hypotenuse, x), _as_column(sigma / hypotenuse, x)


def _as_column(values: Float[Tensor, " b"], x: Tensor) -> Tensor:
    return values.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
