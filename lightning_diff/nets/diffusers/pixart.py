"""PixArt-alpha (arXiv 2310.00426) and PixArt-Sigma (arXiv 2403.04692)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ...denoiser import Prediction, TableTime, Time
from .family import Config, Family, Shapes


class PixArt(Family):
    """Cross-attention to a text with its mask; the alpha model of 1,024 pixels takes resolution and aspect ratio as well."""

    class_name: ClassVar[str] = "PixArtTransformer2DModel"
    prediction: ClassVar[Prediction] = "epsilon"
    optional: ClassVar[tuple[str, ...]] = ("encoder_attention_mask",)
    exact: ClassVar[tuple[str, ...]] = ("resolution", "aspect_ratio")

    def time(self, config: Config) -> Time:
        return TableTime()

    def condition_shapes(self, config: Config, tokens: int) -> Shapes:
        width = config["caption_channels"] or config["cross_attention_dim"]
        shapes: Shapes = {"encoder_hidden_states": (tokens, width), "encoder_attention_mask": (tokens,)}
        if _takes_sizes(config):
            shapes |= {"resolution": (2,), "aspect_ratio": (1,)}
        return shapes

    def refuse(self, config: Config, shape: Sequence[int]) -> None:
        self.refuse_undivided(shape, config["patch_size"], f"patch_size {config['patch_size']}")

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
            timestep=time,
            added_cond_kwargs={name: given.get(name) for name in self.exact},
            encoder_attention_mask=given.get("encoder_attention_mask"),
            return_dict=False,
        )[0]
        return output


def _takes_sizes(config: Config) -> bool:
    asked = config["use_additional_conditions"]
    return config["sample_size"] == 128 if asked is None else bool(asked)  # as the library decides
