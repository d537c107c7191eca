"""Networks: any module called as net(x, c_noise, label=None) -> like x serves; four are ours, and seven the diffusers library's.

Adapters, too. No preconditioning, which is `denoiser`'s.
"""

from .diffusers import Diffusers
from .dit import DiT
from .edm2 import EDM2
from .mlp import MLP
from .unet import UNet

__all__ = ["EDM2", "MLP", "DiT", "Diffusers", "UNet"]
