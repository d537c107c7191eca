"""Reward models from `transformers` that embed pictures and words: CLIP, PickScore, and others with that interface."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ..foundation.errors import UserError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


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
        model: Any,
        prompts: Sequence[str] | dict[str, Tensor],
        scale: float | None = None,
        device: torch.device | str | None = None,
    ):
        mean, std = CLIP_MEAN, CLIP_STD
        self.name = model if isinstance(model, str) else type(model).__name__
        if isinstance(model, str):
            model, prompts, mean, std = _loaded(model, prompts)
        if not isinstance(prompts, dict):
            raise ValueError(
                "ClipReward: a model that is given itself needs its tokens, a mapping for get_text_features"
            )
        self.follows_images = device is None
        self.model = model.to("cpu" if device is None else device).eval().requires_grad_(False)
        self.size = self.model.config.vision_config.image_size
        self.mean, self.std = (torch.tensor(each, device=device).reshape(1, 3, 1, 1) for each in (mean, std))
        self.scale = self.model.logit_scale.exp().item() if scale is None else scale
        with torch.no_grad():
            tokens = {key: value.to(self.mean.device) for key, value in prompts.items()}
            self.words = _embedding(self.model.get_text_features(**tokens))
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
        pictures = _embedding(self.model.get_image_features(pixel_values=(x - self.mean) / self.std))
        cosine = (pictures * self.words[label.to(self.words.device)]).sum(1)
        return (self.scale * cosine).to(images.device)


def _embedding(output: Any) -> Float[Tensor, "n d"]:
    """Of length 1; newer versions of transformers wrap the features in a record."""
    features = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(features.float(), dim=-1)


def _loaded(name: str, prompts: Any) -> tuple[Any, dict[str, Tensor], Any, Any]:
    try:
        from transformers import AutoModel, AutoProcessor
    except ImportError as error:
        raise UserError(
            f"ClipReward needs transformers ({error}): pip install 'lightning_diff[transformers]'."
        ) from error
    try:
        model, processor = AutoModel.from_pretrained(name), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"ClipReward: {name} cannot be loaded as a model with words and pictures: {error}") from error
    has_mask = "attention_mask" in processor.tokenizer.model_input_names
    padding = (
        True if has_mask else "max_length"
    )  # without a mask (SigLIP) a model has only seen sentences padded to full length
    tokens = processor.tokenizer(list(prompts), padding=padding, truncation=True, return_tensors="pt")
    wanted = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
    return model, wanted, processor.image_processor.image_mean, processor.image_processor.image_std
