"""Exact denoisers: data whose posterior mean E[x0 | x0 + sigma eps] has a closed form, to hold everything else against.

    Gaussian(mean, cov)                       full, diagonal or isotropic covariance
    GaussianMixture(weights, means, stds)     isotropic components, with a class each if wanted
    Dataset(images)                           the finite data set: a mixture of points (the denoiser that memorises)

Each is a module called as oracle(x, sigma, label=None) -> x0, and `oracle.denoiser(...)` is the same function as a
network behind EDM's or TrigFlow's preconditioning, usable wherever a trained `Denoiser` is. They have no trainable
parameters.

Shapes: B batch, K components, S the shape of one sample (any number of axes), d its number of elements. They take and
return any floating dtype and compute in float64, in closed forms without cancellation, so that float32 results are
right to the last digit; reverse- and forward-mode derivatives work. As for networks, labels are 0..num_classes, the
last one meaning "no label", and without classes they are ignored.

The network form. With the angle t = arctan(sigma / sigma_data), EDM's network output F = (D - c_skip x) / c_out is, for
a component N(mu, s^2 I) and x_in = c_in x,

    F = sin t (sigma_data mu + cos t (s^2 - sigma_data^2) x_in) / (s^2 cos^2 t + sigma_data^2 sin^2 t),

finite at both ends of (0, pi/2], and F of a mixture is the posterior average of its components' F, because F is affine
in D.

The consistency function f(x, sigma), the end of the probability-flow ODE through x, is `ode_end`: in closed form for a
Gaussian, by a fine solver for a mixture.
"""

from .base import Oracle
from .gaussian import Gaussian
from .mixture import Dataset, GaussianMixture

__all__ = ["Dataset", "Gaussian", "GaussianMixture", "Oracle"]
