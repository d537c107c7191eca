"""The teacher's sampling paths as training batches: one path for each place in the batch, one node of it in each step."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..condition import AnyCondition, of_batch
from ..denoiser import Denoiser
from ..noise import Karras
from ..objectives import Paths, teacher_paths
from ..objectives.distribution_matching import teacher_mean
from .critic import Critic

SIGMA_MIN = 0.002  # EDM's
Batch = dict[str, Tensor]


class Nodes(NamedTuple):
    """What a step regresses on.

    Args:
        x, end: (B, ...), points of paths, and where these end.
        sigma: (B,) float64, the points' noise levels.
        given: what the paths were conditioned on.
        guidance: (B,), the scale of the teacher's guidance on them; None for none.
    """

    x: Float[Tensor, "b ..."]
    sigma: Float[Tensor, " b"]
    end: Float[Tensor, "b ..."]
    given: AnyCondition | None
    guidance: Float[Tensor, " b"] | None


class Place(NamedTuple):
    """Of a micro-batch in the run.

    Args:
        step: how many steps of the student's there were before this one.
        first: images seen before the first of the N steps that this one is of.
        images: images seen before this step.
        batch_size: of the whole step.
        micro_batch: its number within the step.
    """

    step: int
    first: int
    images: int
    batch_size: int
    micro_batch: int


class _Kept(NamedTuple):
    first: int  # images seen before the step that the paths begin with
    paths: Paths
    given: AnyCondition | None
    guidance: Tensor | None


class PathBatches:
    """N steps train on the N nodes of B paths: each place in the batch has a path, and visits another of its nodes in each step.

    Place p of B visits node s k + floor(p N / B) mod N in the k-th step, so that a batch has all levels alike, as far as N and B
    divide, or, if it is smaller than N, levels evenly apart; and since s, which has no divisor in common with N, is about 2 N / 3,
    steps that follow each other take a path at levels far apart. (With s = 1 several in a row train on nearly the same, all nodes
    that are almost pure noise: on the digits the error became a sixth larger.)

    Each path costs the teacher N evaluations and serves N steps. What is trained on is a function of (seed, position): a path
    starts from the noise at its place in the first of these steps, with the class or condition there and its guidance. Nothing of
    it is stored: a run that resumes between the first and the last of them reads that batch again, and draws its paths again.

    Args:
        nodes: N >= 2, EDM's grid from sigma_max to 0.002. (Levels even in ln sigma, CMT's, gave the same distance in one step on
            the digits, and lower recall.)
        sigma_max: where the student's samples start.
    """

    def __init__(self, nodes: int, sigma_max: float):
        if nodes < 2:
            raise ValueError(f"ConsistencyModule: need nodes >= 2, got {nodes}")
        self.count, self.law = nodes, Karras(SIGMA_MIN, sigma_max)
        self._stride = min(
            (s for s in range(1, nodes) if math.gcd(s, nodes) == 1), key=lambda s: abs(3 * s - 2 * nodes)
        )
        self._kept: dict[int, _Kept] = {}  # of each micro-batch of a step

    @property
    def sigmas(self) -> list[float]:
        """Noise levels of the nodes, the largest first."""
        return self._levels(torch.arange(self.count)).tolist()

    def clear(self) -> None:
        """Keep no path of another fit."""
        self._kept.clear()

    def place(self, images: int, batch_size: int, micro_batch: int, critic: Critic | None) -> Place:
        """Of this micro-batch of the step that begins after so many images, a step of the student's."""
        step = images // batch_size if critic is None else critic.student_steps(images, batch_size)
        begun = step // self.count * self.count
        first = begun * batch_size if critic is None else critic.images_before(begun, batch_size)
        return Place(step, first, images, batch_size, micro_batch)

    def nodes(
        self,
        teacher: Denoiser,
        batch: Batch,
        place: Place,
        read: Callable[[Tensor], Batch],
        lay_out: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Nodes:
        """Those of this micro-batch.

        Args:
            teacher: a denoiser in eval mode.
            batch: of the stream, on the device.
            place: see `place`.
            read: positions -> the batch there, on the device.
            lay_out: x -> x in the memory format of the networks.
        """
        kept = self._kept.get(place.micro_batch)
        if kept is None or kept.first != place.first:
            del kept
            self._kept.pop(place.micro_batch, None)  # before there are others
            behind = place.images - place.first
            origin = read(batch["position"] - behind) if behind else batch
            kept = self._kept[place.micro_batch] = self._drawn(teacher, origin, lay_out, place.first)
        within = batch["position"] % place.batch_size
        node = (self._stride * place.step + within * self.count // place.batch_size) % self.count
        x = kept.paths.points[node, torch.arange(len(node), device=node.device)]
        return Nodes(lay_out(x), self._levels(node), kept.paths.ends, kept.given, kept.guidance)

    def _levels(self, node: Tensor) -> Tensor:
        return self.law.icdf(1 - node.double() / (self.count - 1))

    def _drawn(self, teacher: Denoiser, origin: Batch, lay_out: Callable[[Tensor], Tensor], first: int) -> _Kept:
        given, guidance = of_batch(origin), origin.get("guidance")
        paths = teacher_paths(teacher_mean(teacher, given, guidance), lay_out(origin["noise"]), self.sigmas)
        return _Kept(first, paths, given, guidance)
