"""Which pipeline of the diffusers library runs a network of it, what that pipeline is made of, and what it cannot run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...foundation.errors import UserError
from ...nets import Diffusers
from .source import Source


@dataclass(frozen=True, kw_only=True)
class Stock:
    """A pipeline of the library's.

    Args:
        pipeline: its class.
        network: the component that is the network.
        text: components that encode prompts; () for none.
        optional: of all components, those that `from_pretrained` does without.
        unused: components that are always left out.
        vae: component that decodes latents; None where there is none.
        factor: pixels that it takes for a latent's side where it has no autoencoder.
        inputs: the pipeline's argument for each condition of the network.
        options: of the pipeline itself, in its index.
    """

    pipeline: str
    network: str = "transformer"
    text: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    vae: str | None = "vae"
    factor: int = 8
    inputs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


_ONE = ("tokenizer", "text_encoder")
_TWO = (*_ONE, "tokenizer_2", "text_encoder_2")
_THREE = (*_TWO, "tokenizer_3", "text_encoder_3")
_PICTURES = ("feature_extractor", "image_encoder")
_EMBEDS = {"encoder_hidden_states": "prompt_embeds"}
_MASKED = {**_EMBEDS, "encoder_attention_mask": "prompt_attention_mask"}
_POOLED = {**_EMBEDS, "pooled_projections": "pooled_prompt_embeds"}

SD = Stock(
    pipeline="StableDiffusionPipeline",
    network="unet",
    text=_ONE,
    optional=(*_PICTURES, "safety_checker"),
    unused=(*_PICTURES, "safety_checker"),
    inputs=_EMBEDS,
    options={"requires_safety_checker": False},
)
SDXL = Stock(
    pipeline="StableDiffusionXLPipeline",
    network="unet",
    text=_TWO,
    optional=(*_TWO, *_PICTURES),
    unused=_PICTURES,
    inputs={**_EMBEDS, "text_embeds": "pooled_prompt_embeds"},
    options={"force_zeros_for_empty_prompt": False},  # the null condition is the empty prompt's embedding
)
PIXART = Stock(pipeline="PixArtAlphaPipeline", text=_ONE, optional=_ONE, inputs=_MASKED)
SD3 = Stock(pipeline="StableDiffusion3Pipeline", text=_THREE, optional=_PICTURES, unused=_PICTURES, inputs=_POOLED)
FLUX = Stock(pipeline="FluxPipeline", text=_TWO, optional=_PICTURES, unused=_PICTURES, inputs=_POOLED)
SANA = Stock(pipeline="SanaPipeline", text=_ONE, factor=32, inputs=_MASKED)
SPRINT = Stock(pipeline="SanaSprintPipeline", text=_ONE, factor=32, inputs=_MASKED)
DIT = Stock(pipeline="DiTPipeline")
PIXELS = Stock(pipeline="DDIMPipeline", network="unet", vae=None, factor=1)
CLASSES = Stock(pipeline="ConsistencyModelPipeline", network="unet", vae=None, factor=1)


def stock(source: Source) -> Stock:
    """The pipeline for a network.

    Raises:
        UserError: it is no network of the library, or none of its pipelines runs it.
    """
    net = source.net
    if not isinstance(net, Diffusers):
        raise UserError(
            f"export: {source.network_name} is no network of the diffusers library, whose pipelines load nothing else; "
            "--to onnx and --to pt2 write it as a graph"
        )
    config, name = net.config, net.class_name
    if name == "UNet2DConditionModel":
        return SDXL if config["addition_embed_type"] == "text_time" else SD
    if name == "UNet2DModel":
        if source.autoencoder is not None:
            raise _none(source, "of latents")
        is_plain = not net.num_classes and source.record.kind == "denoiser"
        return PIXELS if is_plain and source.record.prediction != "edm" else CLASSES
    if name == "DiTTransformer2DModel":
        if source.autoencoder is None:
            raise _none(source, "without an autoencoder")
        return DIT
    if name == "PixArtTransformer2DModel":
        if "resolution" in net.condition_shapes and config["sample_size"] != 128:
            raise _none(source, "with sizes as a condition, but for sample_size 128")
        return PIXART
    if name == "SanaTransformer2DModel" and is_sprint(source):
        return SPRINT
    return {"SD3Transformer2DModel": SD3, "FluxTransformer2DModel": FLUX, "SanaTransformer2DModel": SANA}[name]


def is_sprint(source: Source) -> bool:
    """Whether Sana-Sprint's pipeline runs it: a consistency model that takes the scale of guidance, and s itself as its time."""
    is_guided = isinstance(source.net, Diffusers) and source.net.guided
    return source.record.kind == "consistency" and is_guided and getattr(source.denoiser.clock, "scale", None) == 1.0


def _none(source: Source, what: str) -> UserError:
    return UserError(
        f"export: no pipeline of the diffusers library runs a {source.network_name} {what}; --to onnx and --to pt2 do"
    )
