"""What is known of one class of the library: how it is called, and what a denoiser around it has to know."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ...condition import AnyCondition
from ...denoiser import Prediction, Time
from ...foundation.errors import UserError

Config = Mapping[str, Any]  # the constructor's arguments in the library, every one of them (see `Diffusers.config`)
Shapes = dict[str, tuple[int, ...]]


class Family:
    """One class of the library. Every method takes the whole configuration, defaults filled in.

    Attributes:
        class_name: in the library.
        prediction: what its published weights predict, by default (see `denoiser.PREDICTIONS`).
        blocks: names of the module lists, and of single modules, that are its blocks, from the input to the output.
        optional: names of conditions that it does without.
        exact: names of conditions that say sizes in pixels: never rounded to half precision.
    """

    class_name: ClassVar[str]
    prediction: ClassVar[Prediction]
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    optional: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[tuple[str, ...]] = ()

    def time(self, config: Config) -> Time:
        """Noise level -> its own time, of its published weights."""
        raise NotImplementedError

    def condition_shapes(self, config: Config, tokens: int) -> Shapes:
        """Names and shapes, for one example, of what it is conditioned on beside a class; {} for nothing.

        Args:
            tokens: length of a prompt's sequence of embeddings, which the configuration does not tell.
        """
        return {}

    def embeddings(self, config: Config) -> int | None:
        """Rows of its table of classes; None for a network without classes."""
        return None

    def null_class(self, config: Config, num_classes: int) -> int | None:
        """The row of that table that stands for no class; None where there is none."""
        return None

    def takes_guidance(self, config: Config) -> bool:
        """Whether the scale of guidance is one of its inputs."""
        return False

    def with_guidance(self, config: Config) -> dict[str, Any]:
        """What the configuration of a network that takes the scale has beside; {} where the library knows none such."""
        return {}

    def without_guidance(self, name: str) -> str:
        """What a weight is called in the network that takes no scale, where that is another class inside."""
        return name

    def in_channels(self, config: Config) -> int:
        """Channels of an example."""
        return int(config["in_channels"])

    def out_channels(self, config: Config) -> int:
        """Channels of the output: those of an example, or twice as many where a variance is learned beside the mean."""
        return int(config["out_channels"] or config["in_channels"])

    def repeated(self, model: nn.Module) -> list[nn.Module]:
        """Its blocks, from the input to the output: what is compiled and sharded one at a time (see `nets.blocks`)."""
        parts = [getattr(model, name) for name in self.blocks]
        return [
            block
            for part in parts
            if part is not None
            for block in (part if isinstance(part, nn.ModuleList) else [part])
        ]

    def refuse(self, config: Config, shape: Sequence[int]) -> None:
        """UserError for what cannot be called as networks are called here, and for a height and width that do not fit."""

    def call(
        self,
        model: nn.Module,
        config: Config,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        given: Mapping[str, Tensor],
        guidance: Float[Tensor, " b"] | None,
    ) -> Float[Tensor, "b d h w"]:
        """The library's own call.

        Args:
            time: its own.
            given: conditions by name, "class_labels" among them.
            guidance: a scale, 1 for none, where the network takes one.
        """
        raise NotImplementedError

    def wrong(self, what: str) -> UserError:
        """The error that begins with the class' name."""
        return UserError(f"nets.Diffusers: {self.class_name}: {what}")

    def refuse_undivided(self, shape: Sequence[int], by: int, what: str) -> None:
        """UserError for a height or width that something does not divide."""
        if shape[1] % by or shape[2] % by:
            raise self.wrong(f"examples of {shape[1]}x{shape[2]}, and {what} must divide both")


def kind(condition: AnyCondition) -> str:
    """A condition in words."""
    return "class labels" if isinstance(condition, Tensor) else repr(condition)
