"""U-Nets: of pixels, with a class or without, and of latents under a text (Stable Diffusion 1.5 and XL, LCM)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...denoiser import Prediction, TableTime, Time
from .family import Config, Family, Shapes

BLOCKS = ("down_blocks", "mid_block", "up_blocks")


class UNet2D(Family):
    """DDPM's U-Net. A row of its class embeddings beyond the classes, if there is one, stands for no class."""

    class_name: ClassVar[str] = "UNet2DModel"
    prediction: ClassVar[Prediction] = "epsilon"
    blocks: ClassVar[tuple[str, ...]] = BLOCKS

    def time(self, config: Config) -> Time:
        return TableTime()

    def embeddings(self, config: Config) -> int | None:
        rows: int | None = config["num_class_embeds"]
        return rows

    def null_class(self, config: Config, num_classes: int) -> int | None:
        rows = self.embeddings(config)
        return num_classes if rows is not None and num_classes < rows else None

    def refuse(self, config: Config, shape: Sequence[int]) -> None:
        if config["class_embed_type"] is not None:
            raise self.wrong(f"class_embed_type {config['class_embed_type']!r} is not covered; leave it out")
        if config["time_embedding_type"] == "learned":
            raise self.wrong("time_embedding_type 'learned' knows whole times alone, and is not covered")
        self.refuse_undivided(shape, 2 ** (len(config["block_out_channels"]) - 1), "its halvings")

    def call(
        self,
        model: nn.Module,
        config: Config,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        given: Mapping[str, Tensor],
        guidance: Float[Tensor, " b"] | None,
    ) -> Float[Tensor, "b d h w"]:
        output: Tensor = model(x, time, class_labels=given.get("class_labels"), return_dict=False)[0]
        return output


class UNet2DCondition(Family):
    """The U-Net of Stable Diffusion. XL's has two conditions more; LCM's (arXiv 2310.04378) takes the scale of guidance."""

    class_name: ClassVar[str] = "UNet2DConditionModel"
    prediction: ClassVar[Prediction] = "epsilon"
    blocks: ClassVar[tuple[str, ...]] = BLOCKS
    optional: ClassVar[tuple[str, ...]] = ("encoder_attention_mask",)
    exact: ClassVar[tuple[str, ...]] = ("time_ids",)

    def time(self, config: Config) -> Time:
        return TableTime(betas="scaled_linear", beta_start=0.00085, beta_end=0.012)

    def condition_shapes(self, config: Config, tokens: int) -> Shapes:
        width = config["encoder_hid_dim"] or config["cross_attention_dim"]
        width = width if isinstance(width, int) else width[0]
        shapes: Shapes = {"encoder_hidden_states": (tokens, width)}
        if config["addition_embed_type"] == "text_time":
            pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            shapes |= {"text_embeds": (pooled,), "time_ids": (6,)}
        return shapes

    def takes_guidance(self, config: Config) -> bool:
        return config["time_cond_proj_dim"] is not None

    def with_guidance(self, config: Config) -> dict[str, Any]:
        return {"time_cond_proj_dim": 256}  # LCM's

    def refuse(self, config: Config, shape: Sequence[int]) -> None:
        for key, known in (
            ("class_embed_type", (None,)),
            ("num_class_embeds", (None,)),
            ("addition_embed_type", (None, "text_time")),
            ("encoder_hid_dim_type", (None, "text_proj")),
            ("attention_type", ("default",)),
        ):
            if config[key] not in known:
                raise self.wrong(f"{key} {config[key]!r} is not covered; {' or '.join(map(repr, known))} is")

    def call(
        self,
        model: nn.Module,
        config: Config,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        given: Mapping[str, Tensor],
        guidance: Float[Tensor, " b"] | None,
    ) -> Float[Tensor, "b d h w"]:
        added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
        scale = None
        if guidance is not None:
            scale = guidance_embedding(guidance, config["time_cond_proj_dim"]).to(x.dtype)
        output: Tensor = model(
            x,
            time,
            given["encoder_hidden_states"],
            timestep_cond=scale,
            added_cond_kwargs=added or None,
            encoder_attention_mask=given.get("encoder_attention_mask"),
            return_dict=False,
        )[0]
        return output


def guidance_embedding(scale: Float[Tensor, " b"], width: int) -> Float[Tensor, "b c"]:
    """[sin, cos] of 1000 w at frequencies 10000^(-k / (n - 1)), w = scale - 1, k = 0..n-1: what LCM adds to its time."""
    half = width // 2
    freqs = torch.exp(torch.arange(half, dtype=torch.float32, device=scale.device) * (-math.log(10000) / (half - 1)))
    angles = 1000 * (scale - 1).to(torch.promote_types(scale.dtype, torch.float32))[:, None] * freqs
    features = torch.cat([angles.sin(), angles.cos()], dim=1)
    return nn.functional.pad(features, (0, width % 2))
