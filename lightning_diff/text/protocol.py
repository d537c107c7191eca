"""What a text encoder is to everything that has prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..condition import Condition

Parts = dict[str, tuple[str, str]]  # component of a pipeline -> (library, class), as a model_index.json has them


@runtime_checkable
class TextEncoder(Protocol):
    """Prompts -> a `Condition`, on the CPU and without gradients; the same prompts give the same numbers."""

    def encode(self, prompts: Sequence[str]) -> Condition:
        """A row for each prompt."""
        ...

    def null(self) -> Condition:
        """One row that stands for "no prompt": the empty one, as the pipeline embeds a negative prompt."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one row, by name."""
        ...

    def fingerprint(self) -> str:
        """sha256 of what the numbers depend on, in hexadecimal digits; costs no encoding."""
        ...

    def save(self, folder: Path | str) -> Parts:
        """Write tokenizers and encoders as components of a diffusers folder, each into a folder of its name."""
        ...

    def node(self) -> dict[str, Any]:
        """As a recipe writes it, valid from any working folder."""
        ...

    def call_arguments(self) -> Mapping[str, Any]:
        """What the pipeline has to be called with, beside the prompt, to embed it as this encoder does."""
        ...

    def release(self) -> None:
        """Give the memory of the weights back; they are read or made again where they are needed."""
        ...
