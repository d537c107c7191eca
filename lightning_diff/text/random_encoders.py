"""Small text encoders with random weights, for recipes that need no download."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..condition import Condition
from ..foundation import rng
from ..foundation.extras import required
from . import pipelines
from .prompt_files import read_prompts
from .protocol import Parts
from .word_tokenizers import clip_tokenizer, t5_tokenizer, words_of

PIPELINE = "StableDiffusion3Pipeline"
VERSION = 2  # of how the weights are drawn
AT_ONCE = 64  # prompts


class RandomEncoders:
    """Two CLIP encoders with projection and a T5, in SD3's layout, with weights drawn from a seed and a word for each token.

    Every word of the vocabulary has a vector of its own, in a context of its own: enough for a network to tell a few hundred
    captions apart, and nothing more, since no meaning is learned. Prompts are encoded by `StableDiffusion3Pipeline.encode_prompt`;
    in a pipeline's folder the saved components do the same, called with `call_arguments`.

    The condition: encoder_hidden_states (2 tokens, 2 width), pooled_projections (2 width,).

    Args:
        vocabulary: texts whose words are known, or a file of them (see `read_prompts`). Other words are spelt.
        seed: of the weights.
        width: of a CLIP encoder, a multiple of 4; T5's is twice that.
        layers: of each, >= 1.
        tokens: of a prompt for CLIP, and as many for T5; longer ones are cut.
    """

    def __init__(
        self,
        vocabulary: str | Path | Sequence[str],
        *,
        seed: int = 0,
        width: int = 32,
        layers: int = 2,
        tokens: int = 16,
    ):
        if width < 4 or width % 4 or layers < 1 or tokens < 3:
            raise ValueError(
                f"RandomEncoders: need width a multiple of 4, layers >= 1 and tokens >= 3, got {width}, {layers} and {tokens}"
            )
        texts = read_prompts(vocabulary).texts if isinstance(vocabulary, str | Path) else vocabulary
        self.words = words_of(texts)
        if not self.words:
            raise ValueError("RandomEncoders: the vocabulary has no words")
        self.seed, self.width, self.layers, self.tokens = seed, width, layers, tokens
        self._pipeline: Any = None
        self._null: Condition | None = None

    def encode(self, prompts: Sequence[str]) -> Condition:
        """A row for each prompt."""
        parts = [
            Condition(pipelines.positive(self._made(), prompts[first : first + AT_ONCE], self.tokens))
            for first in range(0, len(prompts), AT_ONCE)
        ]
        return Condition.cat(parts)

    def null(self) -> Condition:
        """One row: the empty prompt."""
        if self._null is None:
            self._null = Condition(pipelines.negative(self._made(), self.tokens))
        return self._null

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one row, by name."""
        return {"encoder_hidden_states": (2 * self.tokens, 2 * self.width), "pooled_projections": (2 * self.width,)}

    def fingerprint(self) -> str:
        """sha256 of words and settings, from which everything follows."""
        settings = [VERSION, self.words, self.seed, self.width, self.layers, self.tokens]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def save(self, folder: Path | str) -> Parts:
        """Write tokenizer, tokenizer_2, tokenizer_3, text_encoder, text_encoder_2 and text_encoder_3."""
        parts: Parts = {}
        with pipelines.quiet():
            for name, part in self._made().components.items():
                if name.startswith(("tokenizer", "text_encoder")):
                    part.save_pretrained(Path(folder) / name)
                    parts[name] = ("transformers", type(part).__name__)
        return parts

    def node(self) -> dict[str, Any]:
        """As a recipe writes it, with the words."""
        settings = {"seed": self.seed, "width": self.width, "layers": self.layers, "tokens": self.tokens}
        return {"_target_": "lightning_diff.text.RandomEncoders", "vocabulary": list(self.words), **settings}

    def call_arguments(self) -> Mapping[str, Any]:
        """The number of tokens for T5."""
        return {"max_sequence_length": self.tokens}

    def release(self) -> None:
        self._pipeline = None

    def _made(self) -> Any:
        if self._pipeline is None:
            clip, t5 = clip_tokenizer(self.words, self.tokens), t5_tokenizer(self.words, self.tokens)
            self._pipeline = pipelines.without_network(
                PIPELINE,
                {
                    "tokenizer": clip,
                    "tokenizer_2": clip_tokenizer(self.words, self.tokens),
                    "tokenizer_3": t5,
                    "text_encoder": self._clip(clip, "text_encoder"),
                    "text_encoder_2": self._clip(clip, "text_encoder_2"),
                    "text_encoder_3": self._t5(t5),
                },
            )
        return self._pipeline

    def _clip(self, tokenizer: Any, name: str) -> nn.Module:
        transformers = required("transformers", "text.RandomEncoders")
        config = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=2 * self.width,
            projection_dim=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=2,
            max_position_embeddings=self.tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,  # whose place the pooled embedding is taken at
            pad_token_id=tokenizer.pad_token_id,
        )
        return self._drawn(transformers.CLIPTextModelWithProjection, config, name)

    def _t5(self, tokenizer: Any) -> nn.Module:
        transformers = required("transformers", "text.RandomEncoders")
        config = transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=2 * self.width,
            d_kv=self.width // 2,
            d_ff=4 * self.width,
            num_layers=self.layers,
            num_heads=4,
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        return self._drawn(transformers.T5EncoderModel, config, "text_encoder_3")

    def _drawn(self, kind: Any, config: Any, name: str) -> nn.Module:
        """The encoder, each weight a function of seed and name; activations keep a size of about one."""
        with torch.random.fork_rng(devices=[]):  # its own initial weights are overwritten
            encoder: nn.Module = kind(config).eval().requires_grad_(False)
        for key, weight in encoder.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0 if "norm" in key and key.endswith("weight") else 0.0)
                continue
            drawn = rng.normal(self.seed, f"{name}.{key}", [0], tuple(weight.shape))[0]
            weight.copy_(drawn * _scale(key, weight))
        return encoder


def _scale(key: str, weight: torch.Tensor) -> float:
    """Standard deviation of a weight by what it is for."""
    if "position_embedding" in key or "relative_attention_bias" in key:
        return 0.3
    if "embed" in key or key.startswith("shared"):
        return 1.0
    scale: float = weight.shape[1] ** -0.5
    per_head: float = (weight.shape[0] / 4) ** -0.5
    return scale * per_head if key.endswith(".q.weight") else scale  # T5 divides by no root
