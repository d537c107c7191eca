"""Network + preconditioning -> denoiser: the one object that everything here trains, distils, schedules or rewards."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .noise import sigma_to_t

TIMES = ("edm", "trigflow")
KINDS = ("denoiser", "consistency")


class Denoiser(nn.Module):
    """D(x; sigma, label) -> x0, the posterior mean of the clean image given x = x0 + sigma * eps.

    EDM's preconditioning (arXiv 2206.00364, eq. 7 and table 1):
        D = c_skip x + c_out F(c_in x, c_noise),   c_skip = sigma_data^2 / (sigma^2 + sigma_data^2),
        c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2),   c_in = 1 / sqrt(sigma^2 + sigma_data^2).
    TrigFlow (arXiv 2410.11081, section 3) is the same map with t = arctan(sigma / sigma_data), x_t = cos(t) x and the network's
    sign turned: D = cos(t) x_t - sin(t) sigma_data F(x_t / sigma_data, t), because x_t / sigma_data = c_in x. Only what tells the
    network its noise level differs: c_noise = ln(sigma) / 4 ("edm") or t ("trigflow").

    Args:
        net: any module called as net(x, c_noise, label=None) -> same shape as x.
        sigma_data: standard deviation of the data, > 0, in the images' units.
        time: "edm" or "trigflow", the network's time conditioning and sign.
        kind: what the network was trained to give: "denoiser", the mean of the clean images that x may come from, or
            "consistency", the one at the end of the probability-flow ODE through x. The formulas are the same.
    """

    def __init__(self, net: nn.Module, sigma_data: float = 0.5, time: str = "edm", kind: str = "denoiser"):
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"Denoiser: sigma_data must be positive, got {sigma_data}")
        if time not in TIMES:
            raise ValueError(f"Denoiser: time must be one of {', '.join(TIMES)}, got {time!r}")
        if kind not in KINDS:
            raise ValueError(f"Denoiser: kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.net, self.sigma_data, self.time, self.kind = net, float(sigma_data), time, kind

    def forward(
        self,
        x: Float[Tensor, "b ..."],
        sigma: Float[Tensor, ""] | Float[Tensor, " b"],
        label: Int64[Tensor, " b"] | None = None,
        **conditioning: Tensor | None,
    ) -> Float[Tensor, "b ..."]:
        """Estimate of x0. `conditioning` is handed to the network as it is (the augmentation vector, for instance)."""
        sigma, column = _levels(x, sigma)
        norm = (column**2 + self.sigma_data**2).sqrt()
        c_skip = (self.sigma_data / norm) ** 2
        c_out = column * self.sigma_data / norm
        return c_skip * x + c_out * self.edm_output(x, sigma, label, **conditioning)

    def edm_output(
        self,
        x: Float[Tensor, "b ..."],
        sigma: Float[Tensor, ""] | Float[Tensor, " b"],
        label: Int64[Tensor, " b"] | None = None,
        **conditioning: Tensor | None,
    ) -> Float[Tensor, "b ..."]:
        """F with EDM's sign, whatever the network's: what the loss compares with its target."""
        sigma, column = _levels(x, sigma)
        x_in = x / (column**2 + self.sigma_data**2).sqrt()
        output = self.raw(x_in, self.c_noise(sigma), label, **conditioning)
        return output if self.time == "edm" else -output

    def c_noise(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What the network is conditioned on, of its noise level: ln(sigma) / 4, or the angle t."""
        return sigma.log() / 4 if self.time == "edm" else sigma_to_t(sigma, self.sigma_data)

    def c_noise_rate(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """d c_noise / d ln sigma: 1/4, or cos(t) sin(t)."""
        if self.time == "edm":
            return torch.full_like(sigma, 0.25)
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2)

    def raw(
        self,
        x_in: Float[Tensor, "b ..."],
        c_noise: Float[Tensor, " b"],
        label: Int64[Tensor, " b"] | None = None,
        **conditioning: Tensor | None,
    ) -> Float[Tensor, "b ..."]:
        """F, the bare network, in the precision of x_in outside autocast."""
        given = {name: value for name, value in conditioning.items() if value is not None}
        output: Tensor = self.net(x_in, c_noise, label, **given)
        return output.to(x_in.dtype)


def _levels(x: Tensor, sigma: Tensor) -> tuple[Float[Tensor, " b"], Tensor]:
    """sigma as (B,) in x's dtype, and shaped to broadcast against x."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
    return sigma, sigma.reshape(-1, *[1] * (x.ndim - 1))
