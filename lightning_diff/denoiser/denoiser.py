"""The denoiser around a network, whatever the network predicts and however it is told its noise level."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from .. import tangent
from ..condition import AnyCondition, Condition, Prompts
from .predictions import PREDICTIONS, cos_sin, rates
from .times import Time, named

KINDS = ("denoiser", "consistency")
SIGNS = {"edm": 1, "trigflow": -1}  # of F, where the network's output is F


class Position(NamedTuple):
    """Where on the noise axis a network is called: its own time, and coefficients.

    The three of `predictions`, none where its output is F; with bounds cos(t) and sin(t) behind the three.
    """

    c_noise: Float[Tensor, " b"]
    coefficients: tuple[Float[Tensor, " b"], ...] = ()


class Denoiser(nn.Module):
    """D(x; sigma, label) -> x0, the posterior mean of the clean image given x = x0 + sigma * eps.

    EDM's preconditioning (arXiv 2206.00364, eq. 7 and table 1):
        D = c_skip x + c_out F(c_in x, c_noise),   c_skip = sigma_data^2 / (sigma^2 + sigma_data^2),
        c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2),   c_in = 1 / sqrt(sigma^2 + sigma_data^2).
    TrigFlow (arXiv 2410.11081, section 3) is the same map with t = arctan(sigma / sigma_data), x_t = cos(t) x and the network's
    sign turned: D = cos(t) x_t - sin(t) sigma_data F(x_t / sigma_data, t), because x_t / sigma_data = c_in x. A network that
    predicts the noise, a velocity or the image gives the same F after a rescaling (see `predictions`), so that losses, tangents
    and samplers are one for all.

    Pure noise, sigma = infinity, is a level of its own where time and prediction are defined there ("trigflow", "flow",
    "v_prediction" with a table of zero terminal SNR): see `from_noise`.

    Args:
        net: any module called as net(x, c_noise, label=None) -> same shape as x.
        sigma_data: standard deviation of the data, > 0, in the images' units. It sets the unit of F; D of a network that predicts
            "epsilon", "v_prediction", "sample" or "flow" does not depend on it.
        time: what tells the network its noise level: "edm", ln(sigma) / 4; "trigflow", the angle t; "flow", sigma / (1 + sigma);
            or a `Time`, such as `TableTime` (an index of DDPM's) or `FlowTime` (with a factor).
        kind: what the network was trained to give: "denoiser", the mean of the clean images that x may come from, or
            "consistency", the one at the end of the probability-flow ODE through x. The formulas are the same.
        prediction: the network's output, of `PREDICTIONS`: "edm", "trigflow", "epsilon", "v_prediction", "sample" or "flow"; None
            for that of the same name as time.
        prompts: what a label means where it is the number of a prompt: the network is given that row of their condition.
        bounds: (low, high) of the data's values, to which D is clamped. The mean of what lies in a range lies in it, and so does
            the end of a trajectory: for the exact D nothing changes, any other comes nearer to all data. F and its tangent are
            those of the clamped D; gradients pass straight through (see `tangent.clamp`). None: no range.

    Attributes:
        sigma_max: noise level that sampling starts from where nobody says; None for EDM's 80.
        levels: those of the further steps that a consistency model was trained to take; () for none.
    """

    def __init__(
        self,
        net: nn.Module,
        sigma_data: float = 0.5,
        time: str | Time = "edm",
        kind: str = "denoiser",
        prediction: str | None = None,
        prompts: Prompts | None = None,
        bounds: tuple[float, float] | None = None,
    ):
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"Denoiser: sigma_data must be positive, got {sigma_data}")
        if kind not in KINDS:
            raise ValueError(f"Denoiser: kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"Denoiser: bounds must be (low, high), got {bounds[0]:g} and {bounds[1]:g}")
        clock = named(time, float(sigma_data))
        if prediction is None and isinstance(time, Time):
            raise ValueError(
                f"Denoiser: with a time of its own, say what the network predicts: {', '.join(PREDICTIONS)}"
            )
        prediction = str(time) if prediction is None else prediction
        if prediction not in PREDICTIONS:
            raise ValueError(f"Denoiser: prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")
        self.net, self.sigma_data, self.kind, self.prediction = net, float(sigma_data), kind, prediction
        self.time: str | dict[str, Any] = time if isinstance(time, str) else time.node()
        self.clock = clock
        self.prompts = prompts
        self.sigma_max: float | None = None
        self.levels: tuple[float, ...] = ()
        self.bounds = None if bounds is None else (float(bounds[0]), float(bounds[1]))

    def around(self, net: nn.Module) -> "Denoiser":
        """The same denoiser with another network in it."""
        time = self.time if isinstance(self.time, str) else self.clock
        other = Denoiser(net, self.sigma_data, time, self.kind, self.prediction, self.prompts, self.bounds)
        other.sigma_max, other.levels = self.sigma_max, self.levels
        return other

    def told(self, prompts: Prompts | None) -> "Denoiser":
        """The same denoiser, of the same network, that is given the number of one of these prompts in place of a label."""
        denoiser = self.around(self.net)
        denoiser.prompts = prompts
        return denoiser.train(self.training)

    @property
    def _sign(self) -> int:
        """Of F, where the network's output is F up to it and nothing is clamped; 0 where coefficients make F."""
        return 0 if self.bounds is not None else SIGNS.get(self.prediction, 0)

    @property
    def parametrisation(self) -> dict[str, Any]:
        """What the weights are for: sigma_data, time and prediction, as plain values."""
        return {"sigma_data": self.sigma_data, "time": self.time, "prediction": self.prediction}

    def forward(
        self,
        x: Float[Tensor, "b ..."],
        sigma: Float[Tensor, ""] | Float[Tensor, " b"],
        label: AnyCondition | None = None,
        **conditioning: Tensor | None,
    ) -> Float[Tensor, "b ..."]:
        """Estimate of x0. `label` holds classes, numbers of prompts, or is a `Condition`; None for no condition.

        `conditioning` is handed to the network as it is (the augmentation vector, for instance)."""
        sigma, column = _levels(x, sigma)
        norm = (column**2 + self.sigma_data**2).sqrt()
        c_skip = (self.sigma_data / norm) ** 2
        c_out = column * self.sigma_data / norm
        return self._within(c_skip * x + c_out * self.edm_output(x, sigma, label, **conditioning))

    def from_noise(
        self, eps: Float[Tensor, "b ..."], label: AnyCondition | None = None, **conditioning: Tensor | None
    ) -> Float[Tensor, "b ..."]:
        """D at sigma = infinity, where x is the noise itself: what a flow model's sampler starts with, s = 1.

        Raises ValueError where time or prediction are not defined there (see `knows_pure_noise`).
        """
        if not self.knows_pure_noise:
            raise ValueError(
                f"sigma = infinity is no noise level of a network with time {self._time_name} and prediction {self.prediction}; "
                "start the grid at a finite one"
            )
        endless = torch.full((len(eps),), torch.inf, dtype=torch.float64, device=eps.device)
        return self._within(self.sigma_data * self.output_at(eps, self.position(endless, eps), label, **conditioning))

    @property
    def knows_pure_noise(self) -> bool:
        """Whether sigma may be infinite: the time has such a level, and the prediction determines D there."""
        return self.clock.ends_in_noise and self.prediction != "epsilon"

    def edm_output(
        self,
        x: Float[Tensor, "b ..."],
        sigma: Float[Tensor, ""] | Float[Tensor, " b"],
        label: AnyCondition | None = None,
        **conditioning: Tensor | None,
    ) -> Float[Tensor, "b ..."]:
        """F with EDM's sign, whatever the network's: what the loss compares with its target."""
        sigma, column = _levels(x, sigma)
        x_in = x / (column**2 + self.sigma_data**2).sqrt()
        return self.output_at(x_in, self.position(sigma, x), label, **conditioning)

    def position(self, sigma: Float[Tensor, " b"], x: Tensor) -> Position:
        """What of the noise level enters the output: the network's time, and coefficients if its output is not F; in x's dtype."""
        c_noise = self.clock(sigma).to(x.dtype)
        if self._sign:
            return Position(c_noise)
        cos, sin = cos_sin(sigma, self.sigma_data)
        known: tuple[Tensor, ...] = PREDICTIONS[self.prediction](cos, sin, self.sigma_data)
        if self.bounds is not None:
            known = *known, cos, sin
        return Position(c_noise, tuple(each.to(x.dtype) for each in known))

    def position_rate(self, sigma: Float[Tensor, " b"], x: Tensor) -> Position:
        """d position / d ln sigma: the tangent that goes with `position`, in x's dtype."""
        c_noise = self.clock.rate(sigma).to(x.dtype)
        if self._sign:
            return Position(c_noise)
        cos, sin = cos_sin(sigma, self.sigma_data)
        known: tuple[Tensor, ...] = rates(PREDICTIONS[self.prediction], cos, sin, self.sigma_data)
        if self.bounds is not None:
            known = *known, -cos * sin**2, cos**2 * sin
        return Position(c_noise, tuple(each.to(x.dtype) for each in known))

    def output_at(
        self,
        u: Float[Tensor, "b ..."],
        position: Position,
        label: AnyCondition | None = None,
        **conditioning: Tensor | None,
    ) -> Float[Tensor, "b ..."]:
        """F with EDM's sign, for u = c_in x, which has variance one; where forward mode is taken, by u and position."""
        return self._signed(1, u, position, label, conditioning)

    def velocity_at(
        self,
        u: Float[Tensor, "b ..."],
        position: Position,
        label: AnyCondition | None = None,
        **conditioning: Tensor | None,
    ) -> Float[Tensor, "b ..."]:
        """-F, TrigFlow's F: dx_t/dt over sigma_data along the probability-flow ODE, where the model is a denoiser."""
        return self._signed(-1, u, position, label, conditioning)

    def _signed(
        self,
        sign: int,
        u: Tensor,
        position: Position,
        label: AnyCondition | None,
        conditioning: dict[str, Tensor | None],
    ) -> Tensor:
        if self._sign:
            output = self.raw(u, position.c_noise, label, **conditioning)
            return output if self._sign == sign else -output
        scale, skip, out, *angle = (each.reshape(-1, *[1] * (u.ndim - 1)) for each in position.coefficients)
        F = skip * u + out * self.raw(scale * u, position.c_noise, label, **conditioning)
        return sign * (self._bounded(F, u, *angle) if angle else F)

    def _bounded(self, F: Tensor, u: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """EDM's F of the clamped D: F plus what the clamp adds to D = sigma_data (cos(t) u + sin(t) F), in units of F."""
        D = self.sigma_data * (cos * u + sin * F)
        smallest = torch.finfo(sin.dtype).eps  # at sigma = 0, where D does not depend on F
        return F + (self._within(D) - D) / (self.sigma_data * sin.clamp_min(smallest))

    def _within(self, D: Tensor) -> Tensor:
        return D if self.bounds is None else tangent.clamp(D, *self.bounds)

    def c_noise(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What the network is conditioned on, of its noise level: ln(sigma) / 4, the angle t, or a time of its own."""
        time: Tensor = self.clock(sigma)
        return time

    def pipeline_levels(self, sigmas: Float64[Tensor, " nodes"], shift: float = 1.0) -> dict[str, list[Any]]:
        """A grid as a pipeline of the diffusers library is called with it: its keyword and the values, without the last zero.

        With flow's time `sigmas`, s = sigma / (1 + sigma), from which the scheduler takes the shift that it adds itself. With a
        table `timesteps`, the nearest entries of it.

        Args:
            sigmas: decreasing, as samplers take them; the end at 0 is the pipeline's own.
            shift: the scheduler's: `shift` of its configuration, or exp(mu) where it shifts dynamically.

        Raises:
            ValueError: a time that no pipeline has; two levels that are one entry of the table.
        """
        return self.clock.pipeline_levels(sigmas[sigmas > 0].to(torch.float64), shift)

    def raw(
        self,
        x_in: Float[Tensor, "b ..."],
        c_noise: Float[Tensor, " b"],
        label: AnyCondition | None = None,
        **conditioning: Tensor | None,
    ) -> Float[Tensor, "b ..."]:
        """The bare network, in the precision of x_in outside autocast."""
        given = {name: value for name, value in conditioning.items() if value is not None}
        if self.prompts is not None and label is not None and not isinstance(label, Condition):
            label = self.prompts(label)
        output: Tensor = self.net(x_in, c_noise, label, **given)
        return output.to(x_in.dtype)

    @property
    def _time_name(self) -> str:
        return self.time if isinstance(self.time, str) else str(self.time["_target_"]).rpartition(".")[2]


def default_time(prediction: str | None) -> str:
    """The time of a new network that makes this prediction: of the same name, or EDM's."""
    return prediction if prediction in ("trigflow", "flow") else "edm"


def _levels(x: Tensor, sigma: Tensor) -> tuple[Float[Tensor, " b"], Tensor]:
    """sigma as (B,) in x's dtype, and shaped to broadcast against x."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
    return sigma, sigma.reshape(-1, *[1] * (x.ndim - 1))
