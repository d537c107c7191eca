"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ...denoiser import FlowTime, Prediction, Time
from .family import Config, Family, Shapes


class SD3(Family):
    """A text's embeddings in the sequence, its pooled embedding beside the time, which is 1000 s."""

    class_name: ClassVar[str] = "SD3Transformer2DModel"
    prediction: ClassVar[Prediction] = "flow"

    def time(self, config: Config) -> Time:
        return FlowTime(1000.0)

    def condition_shapes(self, config: Config, tokens: int) -> Shapes:
        return {
            "encoder_hidden_states": (tokens, config["joint_attention_dim"]),
            "pooled_projections": (config["pooled_projection_dim"],),
        }

    def refuse(self, config: Config, shape: Sequence[int]) -> None:
        patch, most = config["patch_size"], config["pos_embed_max_size"]
        self.refuse_undivided(shape, patch, f"patch_size {patch}")
        if most and max(shape[1:]) > patch * most:
            raise self.wrong(f"examples of {shape[1]}x{shape[2]}, and pos_embed_max_size {most} is for {patch * most}")
        inner = config["num_attention_heads"] * config["attention_head_dim"]
        if config["caption_projection_dim"] != inner:
            raise self.wrong(
                f"caption_projection_dim {config['caption_projection_dim']}, and heads times their width are {inner}; "
                "make them equal"
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
            pooled_projections=given["pooled_projections"],
            timestep=time,
            return_dict=False,
        )[0]
        return output
