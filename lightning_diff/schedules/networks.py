"""The small networks that act and criticise."""

from torch import nn


def mlp(inputs: int, width: int = 128) -> nn.Sequential:
    """Three layers with softplus between them (ART-RL, appendix C); the output starts at 0."""
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    layers = (nn.Linear(inputs, width), nn.Softplus(), nn.Linear(width, width), nn.Softplus(), last)
    return nn.Sequential(*layers, nn.Flatten(-2))
