"""Reward models from `transformers` that embed pictures and words: CLIP, PickScore, and others with that interface."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ..foundation.errors import UserError
from ..foundation.extras import required
from ..nets.frozen import Frozen

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@runtime_checkable
class Pooled(Protocol):
    """Newer versions of transformers wrap features in a record."""

    pooler_output: Tensor


@runtime_checkable
class Embedder(Protocol):
    """A module of `transformers` with embeddings of pictures and of words."""

    config: Any  # transformers' own, without a type for its parts

    def get_image_features(self, *, pixel_values: Tensor) -> Tensor | Pooled: ...

    def get_text_features(self, **tokens: Tensor) -> Tensor | Pooled: ...


class Loaded(NamedTuple):
    """A model, the tokens of its prompts, and what pictures are normalised by."""

    model: Embedder
    tokens: Mapping[str, Tensor]
    mean: Sequence[float]
    std: Sequence[float]


class ClipReward:
    """scale times the cosine of the angle between a picture's embedding and that of its label's words.

    Pictures are resized with antialiasing, grey ones shown in three channels, and normalised; all on their own device.

    Args:
        model: a name or folder that `transformers.AutoModel` knows, or a model with `get_image_features` and `get_text_features`.
            Code that comes with weights is never run.
        prompts: the words for each label, in order; or, for a model that is given itself, a mapping of the tokens as its
            `get_text_features` takes them, (labels, length) each.
        scale: of the cosine. None: the model's own exp(logit_scale). PickScore is reported divided by 26, CLIPScore with scale 1.
        device: where the model runs. None: where the images are; it moves there when it is first called.
    """

    def __init__(
        self,
        model: str | Embedder,
        prompts: Sequence[str] | Mapping[str, Tensor],
        scale: float | None = None,
        device: torch.device | str | None = None,
    ):
        mean: Sequence[float] = CLIP_MEAN
        std: Sequence[float] = CLIP_STD
        self.name = model if isinstance(model, str) else type(model).__name__
        if isinstance(model, str):
            model, prompts, mean, std = _loaded(model, list(prompts))
        if not isinstance(prompts, Mapping):
            raise ValueError(
                "ClipReward: a model that is given itself needs its tokens, a mapping for get_text_features"
            )
        self.follows_images = device is None
        self.model = Frozen(model)
        self.model.to("cpu" if device is None else device)
        self.size = int(model.config.vision_config.image_size)
        self.mean, self.std = (torch.tensor(each, device=device).reshape(1, 3, 1, 1) for each in (mean, std))
        self.scale = _own_scale(model) if scale is None else scale
        with torch.no_grad():
            tokens = {key: value.to(self.mean.device) for key, value in prompts.items()}
            self.words = _embedding(model.get_text_features(**tokens))
        self.needs_label = len(self.words) > 1

    def __call__(self, images: Float[Tensor, "b c h w"], label: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        if len(label) and not (label.min() >= 0 and label.max() < len(self.words)):
            raise ValueError(
                f"ClipReward: there are {len(self.words)} prompts, for labels 0..{len(self.words) - 1}; got "
                f"{label.min()}..{label.max()}"
            )
        if self.follows_images and self.mean.device != images.device:
            self.model.to(images.device)
            self.mean, self.std, self.words = (each.to(images.device) for each in (self.mean, self.std, self.words))
        x = ((images.to(self.mean.device, torch.float32) + 1) / 2).expand(-1, 3, -1, -1)
        x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        pictures = _embedding(self.model.value.get_image_features(pixel_values=(x - self.mean) / self.std))
        cosine = (pictures * self.words[label.to(self.words.device)]).sum(1)
        return (self.scale * cosine).to(images.device)


def _own_scale(model: Embedder) -> float:
    logit_scale = getattr(model, "logit_scale", None)
    if not isinstance(logit_scale, Tensor):
        raise ValueError("ClipReward: the model has no logit_scale; give a scale")
    return logit_scale.exp().item()


def _embedding(output: Tensor | Pooled) -> Float[Tensor, "n d"]:
    """Of length 1."""
    features = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(features.float(), dim=-1)


def _loaded(name: str, prompts: list[str]) -> Loaded:
    library = required("transformers", "ClipReward")
    try:
        model, processor = library.AutoModel.from_pretrained(name), library.AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"ClipReward: {name} cannot be loaded as a model with words and pictures: {error}") from error
    has_mask = "attention_mask" in processor.tokenizer.model_input_names
    # Without a mask (SigLIP) a model has only seen sentences padded to full length.
    padding = True if has_mask else "max_length"
    tokens = processor.tokenizer(prompts, padding=padding, truncation=True, return_tensors="pt")
    wanted = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
    looks = processor.image_processor
    return Loaded(model, wanted, looks.image_mean, looks.image_std)
