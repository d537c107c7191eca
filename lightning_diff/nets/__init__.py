"""Networks: any module called as net(x, c_noise, label=None) -> like x serves; these four are ours.

Adapters, too. No preconditioning, which is `denoiser`'s.
"""

from .dit import DiT
from .edm2 import EDM2
from .mlp import MLP
from .unet import UNet

__all__ = ["EDM2", "MLP", "DiT", "UNet"]
