"""Flux.1, whose tokens are squares of 2x2 latents with a place of their own."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ...denoiser import FlowTime, Prediction, Time
from .family import Config, Family, Shapes

SIDE = 2  # of the square of latents that is one token


class Flux(Family):
    """Packed and unpacked here. Its time is s; the distilled models (`guidance_embeds`) take the scale of guidance."""

    class_name: ClassVar[str] = "FluxTransformer2DModel"
    prediction: ClassVar[Prediction] = "flow"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")

    def time(self, config: Config) -> Time:
        return FlowTime()

    def condition_shapes(self, config: Config, tokens: int) -> Shapes:
        return {
            "encoder_hidden_states": (tokens, config["joint_attention_dim"]),
            "pooled_projections": (config["pooled_projection_dim"],),
        }

    def takes_guidance(self, config: Config) -> bool:
        return bool(config["guidance_embeds"])

    def with_guidance(self, config: Config) -> dict[str, Any]:
        return {"guidance_embeds": True}

    def in_channels(self, config: Config) -> int:
        if config["in_channels"] % SIDE**2:
            raise self.wrong(f"in_channels {config['in_channels']} are no tokens of {SIDE}x{SIDE} latents; divide by 4")
        return int(config["in_channels"]) // SIDE**2

    def out_channels(self, config: Config) -> int:
        return super().out_channels(config) // SIDE**2

    def refuse(self, config: Config, shape: Sequence[int]) -> None:
        if config["patch_size"] != 1:
            raise self.wrong(
                f"patch_size {config['patch_size']} is not covered; 1 is, since latents are packed outside"
            )
        self.refuse_undivided(shape, SIDE, f"a token's side, {SIDE},")
        if sum(config["axes_dims_rope"]) != config["attention_head_dim"]:
            raise self.wrong(
                f"axes_dims_rope add up to {sum(config['axes_dims_rope'])}, and attention_head_dim is "
                f"{config['attention_head_dim']}; make them equal"
            )

    def call(
        self,
        model: nn.Module,
        config: Config,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        given: Mapping[str, Tensor],
        guidance: Float[Tensor, " b"] | None,
    ) -> Float[Tensor, "b d h w"]:
        rows, columns = x.shape[2] // SIDE, x.shape[3] // SIDE
        text = given["encoder_hidden_states"]
        output: Tensor = model(
            rearrange(x, "b c (i p) (j q) -> b (i j) (c p q)", p=SIDE, q=SIDE),
            text,
            pooled_projections=given["pooled_projections"],
            timestep=time,
            img_ids=_places(rows, columns, x.device),
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device),
            guidance=guidance,
            return_dict=False,
        )[0]
        return rearrange(output, "b (i j) (c p q) -> b c (i p) (j q)", i=rows, j=columns, p=SIDE, q=SIDE)


def _places(rows: int, columns: int, device: torch.device) -> Float[Tensor, "n 3"]:
    """(0, row, column) of each token."""
    row = torch.arange(rows, device=device, dtype=torch.float32)
    column = torch.arange(columns, device=device, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(row, column, indexing="ij"), -1).flatten(0, 1)
    return nn.functional.pad(grid, (1, 0))
