"""The sampler of consistency models, whose output is the end of the trajectory."""

from jaxtyping import Float
from torch import Tensor

from .protocol import Denoise, Noise, check_sigmas, level, standard_normal
from .solver import Solver


def consistency(
    denoise: Denoise, x: Float[Tensor, "b ..."], sigmas: Float[Tensor, " nodes"], *, generator: Noise = None
) -> Float[Tensor, "b ..."]:
    """Multistep consistency sampling (arXiv 2303.01469, alg. 1): for consistency models, whose output is a sample.

    After the first call, fresh noise up to the next level and another call. n calls; with n = 1 deterministic. In TrigFlow's
    coordinates x_t = cos(t) x0 + sin(t) sigma_data eps is the same point, cos(t) times the one here.
    """
    first, *later = check_sigmas(sigmas)[:-1]
    x = denoise(x, level(first, x))
    for step, sigma in enumerate(later, 1):
        x = x + sigma * standard_normal(generator, x, step)
        x = denoise(x, level(sigma, x))
    return x


CONSISTENCY = Solver("consistency", consistency, serves="consistency")
