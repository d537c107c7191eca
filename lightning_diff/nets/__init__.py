"""Networks: any module called as net(x, c_noise, label=None) -> like x serves; these three are ours.

Adapters, too. No preconditioning, which is `denoiser`'s.
"""

from .dit import DiT
from .mlp import MLP
from .unet import UNet

__all__ = ["MLP", "DiT", "UNet"]
