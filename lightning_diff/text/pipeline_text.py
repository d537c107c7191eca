"""The text encoders of a diffusers folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ..condition import Condition
from . import pipelines
from .components import Components
from .pipelines import Tensors
from .protocol import Parts

AT_ONCE = 16  # prompts through the encoders


class PipelineText:
    """Tokenizers and text encoders of a pipeline's folder; prompts are embedded as its own class embeds them.

    The pipeline classes and the classes of components are on a list; weights are read from safetensors, nothing is downloaded, no
    code of the folder is run. Weights are read when the first prompt has to be encoded.

    Names and shapes of the condition, T tokens: SD 1.5 and 2 encoder_hidden_states (77, d); SDXL also text_embeds (d2,) and
    time_ids (6,); SD3 encoder_hidden_states (77 + T, d), pooled_projections (d1 + d2,); Flux encoder_hidden_states (T, d),
    pooled_projections (d1,); PixArt and Sana encoder_hidden_states (T, d), encoder_attention_mask (T,), and PixArt-alpha for 1024
    pixels resolution (2,) and aspect_ratio (1,).

    Args:
        folder: of the pipeline, with model_index.json.
        max_tokens: tokens of a T5 or a Gemma, longer prompts are cut; None for what the pipeline takes (SD3 256, Flux 512, PixArt
            120 and 300, Sana 300). CLIP's number is its own.
        dtype: of weights and embeddings. What is handed on is float32.
        size: (height, width) in pixels, which SDXL and PixArt-alpha are told; None for the size that the network is for.
        instruct: put the instruction before prompts that Sana's pipelines put there.
        device: that encodes.

    Raises:
        UserError: see `Components`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_tokens: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        size: tuple[int, int] | None = None,
        instruct: bool = True,
        device: str = "cpu",
    ):
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"PipelineText: max_tokens must be at least 1, got {max_tokens}")
        self.components = Components(folder)
        self.max_tokens, self.dtype, self.size, self.instruct = max_tokens, dtype, size, instruct
        self.device = device
        self._pipeline: Any = None
        self._null: Condition | None = None

    def encode(self, prompts: Sequence[str]) -> Condition:
        """A row for each prompt."""
        made = [
            self._whole(
                pipelines.positive(self._loaded(), prompts[i : i + AT_ONCE], self.max_tokens, instruct=self.instruct)
            )
            for i in range(0, len(prompts), AT_ONCE)
        ]
        return Condition.cat(made)

    def null(self) -> Condition:
        """One row: the negative prompt that nobody gave (SDXL's is zero where its index says so)."""
        if self._null is None:
            self._null = self._whole(pipelines.negative(self._loaded(), self.max_tokens))
        return self._null

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one row, by name; encodes the empty prompt."""
        return self.null().shapes

    def fingerprint(self) -> str:
        """sha256 of settings, configurations, words, and of the weights their sizes and parts (`Components.fingerprint`)."""
        settings = [self.max_tokens, self.dtype, self.size, self.instruct]
        own = json.dumps([self.components.fingerprint(), *settings, list(self._ids())])
        return hashlib.sha256(own.encode()).hexdigest()

    def identities(self) -> dict[str, str]:
        """Of each tokenizer and encoder, digits that change with its files."""
        return self.components.identities()

    def save(self, folder: Path | str) -> Parts:
        """Copy the components."""
        return self.components.copy(Path(folder))

    def node(self) -> dict[str, Any]:
        """As a recipe writes it, the folder absolute."""
        settings = {
            "max_tokens": self.max_tokens,
            "dtype": self.dtype,
            "size": None if self.size is None else list(self.size),
            "instruct": self.instruct,
            "device": self.device,
        }
        return {"_target_": "lightning_diff.text.PipelineText", "folder": str(self.components.folder), **settings}

    def call_arguments(self) -> Mapping[str, Any]:
        """max_sequence_length, where it is not the pipeline's own; no instruction, where Sana's is left out."""
        given: dict[str, Any] = {} if self.max_tokens is None else {"max_sequence_length": self.max_tokens}
        if not self.instruct and self.components.pipeline.startswith("Sana"):
            given["complex_human_instruction"] = None
        return given

    def release(self) -> None:
        self._pipeline = None

    def _loaded(self) -> Any:
        if self._pipeline is None:
            parts = self.components.load(getattr(torch, self.dtype), self.device)
            index = self.components.index
            zeros = {key: index[key] for key in ("force_zeros_for_empty_prompt",) if key in index}
            self._pipeline = pipelines.without_network(
                self.components.pipeline, parts | zeros, self.components.config("transformer")
            )
        return self._pipeline

    def _whole(self, tensors: Tensors) -> Condition:
        """With what the network is told of the size, on the CPU."""
        rows = len(tensors["encoder_hidden_states"])
        ids = {name: torch.tensor(values, dtype=torch.float32).expand(rows, -1) for name, values in self._ids().items()}
        return Condition({name: each.detach().cpu() for name, each in tensors.items()} | ids)

    def _ids(self) -> dict[str, list[float]]:
        """What is the same for every prompt: SDXL's time_ids, PixArt-alpha's resolution."""
        name = self.components.pipeline
        if name == "StableDiffusionXLPipeline":
            height, width = self._pixels("unet", 128)
            return {"time_ids": [height, width, 0.0, 0.0, height, width]}  # original size, crop, target size
        if name == "PixArtAlphaPipeline":
            config = self.components.config("transformer")
            tells = config.get("use_additional_conditions")
            if tells or (tells is None and config.get("sample_size") == 128):
                height, width = self._pixels("transformer", 128)
                return {"resolution": [height, width], "aspect_ratio": [height / width]}
        return {}

    def _pixels(self, network: str, default: int) -> tuple[float, float]:
        """Of an image: those asked for, or what the network is for."""
        if self.size is not None:
            return float(self.size[0]), float(self.size[1])
        size = self.components.config(network).get("sample_size") or default
        height, width = (size, size) if isinstance(size, int) else size
        blocks = self.components.config("vae").get("block_out_channels") or [0] * 4
        factor = 2 ** (len(blocks) - 1)
        return float(height * factor), float(width * factor)
