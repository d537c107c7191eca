"""The diffusion transformer of classes (DiT, arXiv 2212.09748)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ...denoiser import Prediction, TableTime, Time
from .family import Config, Family


class DiT(Family):
    """`num_embeds_ada_norm` is the number of classes; the row after them stands for none."""

    class_name: ClassVar[str] = "DiTTransformer2DModel"
    prediction: ClassVar[Prediction] = "epsilon"

    def time(self, config: Config) -> Time:
        return TableTime()

    def embeddings(self, config: Config) -> int | None:
        return int(config["num_embeds_ada_norm"])

    def null_class(self, config: Config, num_classes: int) -> int | None:
        return int(config["num_embeds_ada_norm"])

    def repeated(self, model: nn.Module) -> list[nn.Module]:
        """All but the first, whose embedding the network calls by itself at its end: sharded, its weights would be gone there."""
        return super().repeated(model)[1:]

    def refuse(self, config: Config, shape: Sequence[int]) -> None:
        self.refuse_undivided(shape, config["patch_size"], f"patch_size {config['patch_size']}")
        size = config["sample_size"]
        if tuple(shape[1:]) != (size, size):
            raise self.wrong(f"examples of {shape[1]}x{shape[2]}, and its sample_size is {size}, the side of a square")

    def call(
        self,
        model: nn.Module,
        config: Config,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        given: Mapping[str, Tensor],
        guidance: Float[Tensor, " b"] | None,
    ) -> Float[Tensor, "b d h w"]:
        output: Tensor = model(x, timestep=time, class_labels=given["class_labels"], return_dict=False)[0]
        return output
