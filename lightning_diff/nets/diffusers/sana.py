"""Sana (arXiv 2410.10629) and Sana-Sprint (arXiv 2503.09641): linear attention on strongly compressed latents."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ...denoiser import FlowTime, Prediction, Time
from .family import Config, Family, Shapes


class Sana(Family):
    """Cross-attention to a text with its mask. Its time is 1000 s timestep_scale; Sprint's takes the scale of guidance."""

    class_name: ClassVar[str] = "SanaTransformer2DModel"
    prediction: ClassVar[Prediction] = "flow"
    optional: ClassVar[tuple[str, ...]] = ("encoder_attention_mask",)

    def time(self, config: Config) -> Time:
        return FlowTime(1000.0 * config["timestep_scale"])

    def condition_shapes(self, config: Config, tokens: int) -> Shapes:
        return {"encoder_hidden_states": (tokens, config["caption_channels"]), "encoder_attention_mask": (tokens,)}

    def takes_guidance(self, config: Config) -> bool:
        return bool(config["guidance_embeds"])

    def with_guidance(self, config: Config) -> dict[str, Any]:
        return {"guidance_embeds": True}

    def without_guidance(self, name: str) -> str:
        return name.replace("time_embed.timestep_embedder.", "time_embed.emb.timestep_embedder.")

    def refuse(self, config: Config, shape: Sequence[int]) -> None:
        self.refuse_undivided(shape, config["patch_size"], f"patch_size {config['patch_size']}")
        inner = config["num_attention_heads"] * config["attention_head_dim"]
        if config["cross_attention_dim"] != inner:
            raise self.wrong(
                f"cross_attention_dim {config['cross_attention_dim']}, and heads times their width are {inner}; make them equal"
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
        output: Tensor = model(
            x,
            given["encoder_hidden_states"],
            time,
            guidance=None if guidance is None else config["guidance_embeds_scale"] * guidance,
            encoder_attention_mask=given.get("encoder_attention_mask"),
            return_dict=False,
        )[0]
        return output
