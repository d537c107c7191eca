"""Averages of the weights over training: how fast they forget, how they are kept, and how to make others afterwards.

Time is counted in images. A *profile* is any object with

    decay(images_seen, batch_size) -> beta in [0, 1]        average <- beta average + (1 - beta) weights

once for each optimiser step, where images_seen includes the step just taken and batch_size is the images of that step.

    HalfLife        an exponential average that forgets half after so many images (EDM)
    PowerFunction   an average over the relative age t / T, the same shape at any length of training (EDM2)

Two power-function averages, stored now and then, span the others: `posthoc_weights` says how to mix the stored ones
into the average of any other width, after training (EDM2, arXiv 2312.02696, section 3.2).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

WIDEST = math.sqrt(1 / 12)  # sigma_rel of the plain mean over all of training, gamma = 0


@runtime_checkable
class Profile(Protocol):
    """How much of the average one optimiser step keeps."""

    def decay(self, images_seen: int, batch_size: int) -> float: ...


class HalfLife:
    """Exponential average with a half-life in images, shorter at the start (EDM, arXiv 2206.00364, appendix F.2).

    Args:
        images: images after which half of the average is forgotten, > 0. EDM: 500,000 for CIFAR-10, 50 million for
            ImageNet-64.
        ramp_up: the half-life is at most this fraction of the images seen before the step, so that the average soon
            forgets the initial weights; the first step then replaces them altogether. EDM: 0.05. None: the full
            half-life from the start.
    """

    def __init__(self, images: int | float, ramp_up: float | None = 0.05):
        if not images > 0:
            raise ValueError(f"HalfLife: images must be positive, got {images}")
        if ramp_up is not None and not ramp_up > 0:
            raise ValueError(f"HalfLife: ramp_up must be positive or none, got {ramp_up}")
        self.images, self.ramp_up = images, ramp_up

    def decay(self, images_seen: int, batch_size: int) -> float:
        half_life = self.images
        if self.ramp_up is not None:
            half_life = min(half_life, self.ramp_up * (images_seen - batch_size))
        return 0.5 ** (batch_size / half_life) if half_life > 0 else 0.0


class PowerFunction:
    """Average that gives the weights at t of the T images seen so far a share ~ t^gamma (EDM2, section 3.1).

    beta = (1 - batch_size / images_seen)^(gamma + 1), of which the weight on one step is exactly the integral of the
    profile (gamma + 1) t^gamma / T^(gamma + 1) over that step's images. The first step replaces the initial weights.

    Args:
        sigma_rel: standard deviation of the profile as a fraction of the training so far, 0 < sigma_rel <= 1/sqrt(12)
            (0.289, the plain mean). EDM2 tracks 0.05 and 0.10.
    """

    def __init__(self, sigma_rel: float):
        self.sigma_rel, self.gamma = sigma_rel, sigma_rel_to_gamma(sigma_rel)

    def decay(self, images_seen: int, batch_size: int) -> float:
        return float((1 - min(batch_size / images_seen, 1.0)) ** (self.gamma + 1))


def half_life(profile: Profile, images_seen: int, batch_size: int) -> float:
    """Images after which half of an average is forgotten, late in a training: what `HalfLife` is given, else what its decay says.

    Args:
        profile: any.
        images_seen: at which it is asked.
        batch_size: images of an optimiser step.
    """
    if isinstance(profile, HalfLife):
        return float(profile.images)
    beta = profile.decay(images_seen, batch_size)
    if beta >= 1:
        return math.inf
    return batch_size * math.log(0.5) / math.log(beta) if beta > 0 else 0.0


def gamma_to_sigma_rel(gamma: float) -> float:
    """Standard deviation of the profile t^gamma on [0, 1], gamma >= 0: that of a beta law (EDM2, section 3.1)."""
    if not gamma >= 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def sigma_rel_to_gamma(sigma_rel: float) -> float:
    """Exponent gamma >= 0 of the profile of relative width sigma_rel, in (0, 1/sqrt(12)]: a root of a cubic."""
    if not 0 < sigma_rel <= WIDEST:
        raise ValueError(f"sigma_rel must be in (0, {WIDEST:.4f}] (the upper end is the plain mean), got {sigma_rel}")
    # With u = gamma + 2 and s = 1 / sigma_rel^2, u^3 + u^2 - s u + s = 0: three real roots for s >= 12, of which the
    # largest is the one that grows as the profile narrows. Viete's formula for v = u + 1/3, v^3 + p v + q = 0.
    s = sigma_rel**-2
    p, q = -s - 1 / 3, 4 * s / 3 + 2 / 27
    v = 2 * math.sqrt(-p / 3) * math.cos(math.acos(1.5 * q / p * math.sqrt(-3 / p)) / 3)
    return max(0.0, v - 7 / 3)


def start(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A new average, equal to `weights`: copies in float32, or in the weights' precision if that is higher."""
    with torch.inference_mode(False), torch.no_grad():  # under inference mode, the copies could never be updated
        return {
            name: torch.empty_like(w, dtype=torch.promote_types(w.dtype, torch.float32)).copy_(w)
            for name, w in weights.items()
        }


@torch.no_grad()
def update_(average: dict[str, Tensor], weights: Mapping[str, Tensor], beta: float) -> None:
    """average <- beta average + (1 - beta) weights, in place. Sharded tensors (DTensor) are averaged shard by shard.

    Args:
        average: from `start`; its keys are the weights that count.
        weights: has at least those keys.
        beta: from a profile's `decay`, in [0, 1].
    """
    if average:
        news = [weights[name].detach().to(a.dtype) for name, a in average.items()]
        torch._foreach_lerp_(list(average.values()), news, 1 - beta)


@torch.no_grad()
def update_all_(
    averages: Sequence[dict[str, Tensor]], weights: Mapping[str, Tensor], betas: Float[Tensor, " n"]
) -> None:
    """`update_` of several averages, up to rounding, with the betas as data: one compiled graph serves all steps and reads the
    weights once.

    Args:
        averages: from `start`, n of them; on one device.
        weights: has the keys of each.
        betas: of each average, in [0, 1].
    """
    for average, beta in zip(averages, betas.unbind(), strict=True):
        own = list(average.values())
        steps = torch._foreach_sub([weights[name].detach().to(a.dtype) for name, a in average.items()], own)
        torch._foreach_mul_(steps, 1 - beta)
        torch._foreach_add_(own, steps)


def inner_product(
    images_a: Float[Tensor, "*n"],
    gamma_a: Float[Tensor, "*n"],
    images_b: Float[Tensor, "*n"],
    gamma_b: Float[Tensor, "*n"],
) -> Float[Tensor, "*n"]:
    """Integral over t of two power-function profiles, those of `gamma` at `images` (EDM2, section 3.2; closed form).

    With p(t) = (gamma + 1) t^gamma / T^(gamma + 1) on [0, T] and m = min(T_a, T_b):
    (gamma_a + 1)(gamma_b + 1) / (gamma_a + gamma_b + 1) * (m / T_a)^gamma_a (m / T_b)^gamma_b * m / (T_a T_b).
    """
    m = torch.minimum(images_a, images_b)
    overlap = (m / images_a) ** gamma_a * (m / images_b) ** gamma_b * m / (images_a * images_b)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * overlap


def posthoc_weights(
    snapshot_images: Sequence[int | float],
    snapshot_gammas: Sequence[float],
    target_images: int | float,
    target_gamma: float,
) -> Float[Tensor, " n"]:
    """Weights, of sum one, that mix stored averages into that of `target_gamma` at `target_images` (EDM2, section 3.2).

    They minimise the squared distance between the mixed profile and the target's; the sum is held at one inside the
    fit, because any other sum would scale the part of the weights that all snapshots share. Float64, of the
    snapshots' number.

    Args:
        snapshot_images: images seen at each snapshot, > 0.
        snapshot_gammas: exponent of the average that each snapshot stores, >= 0.
        target_images: > 0 and no later than the last snapshot: what came after it cannot be known.
        target_gamma: >= 0. Well outside the stored exponents the fit grows poor.
    """
    images, gammas = (torch.tensor(list(x), dtype=torch.float64) for x in (snapshot_images, snapshot_gammas))
    if not len(images) or len(images) != len(gammas):
        raise ValueError(f"need as many images as gammas, at least one, got {len(images)} and {len(gammas)}")
    if not 0 < target_images <= images.max():
        raise ValueError(f"target_images must be in (0, {images.max():.0f}], the last snapshot, got {target_images}")
    target = torch.tensor([target_images, target_gamma], dtype=torch.float64).expand(len(images), 2)
    # Profiles are scaled to length one, so that early and late snapshots are alike to the pseudo-inverse's tolerance.
    length = inner_product(images, gammas, images, gammas).sqrt()
    a = inner_product(*torch.broadcast_tensors(images[:, None], gammas[:, None], images, gammas))
    a = a / torch.outer(length, length)
    b = inner_product(images, gammas, target[:, 0], target[:, 1]) / length
    one = 1 / length
    inverse = torch.linalg.pinv(a, hermitian=True)  # of two equal snapshots each gets half
    x: Tensor = inverse @ b
    x = x + (1 - one @ x) / (one @ inverse @ one) * (inverse @ one)
    weights: Tensor = x / length
    return weights


def reconstruct(snapshots: Iterable[Mapping[str, Tensor]], weights: Float[Tensor, " n"]) -> dict[str, Tensor]:
    """Sum of weights[i] * snapshots[i], in float64, returned in float32. Takes them one by one: give it a generator."""
    total: dict[str, Tensor] = {}
    for weight, snapshot in zip(weights.tolist(), snapshots, strict=True):
        if not total:
            total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in snapshot.items()}
        if snapshot.keys() != total.keys():
            raise ValueError(f"snapshots of different networks: only some have {min(snapshot.keys() ^ total.keys())}")
        for name, value in snapshot.items():
            total[name].add_(value, alpha=weight)
    return {name: value.float() for name, value in total.items()}
