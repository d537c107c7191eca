"""Prompts as each pipeline class of diffusers embeds them: by its own `encode_prompt`, without its network and its VAE."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..foundation.extras import quietly, required

Tensors = dict[str, Tensor]


def without_network(name: str, components: dict[str, Any], transformer: dict[str, Any] | None = None) -> Any:
    """A pipeline of this class with the text encoders alone.

    Args:
        name: of the class, one of `components.PIPELINES`.
        components: tokenizers and encoders by name.
        transformer: configuration of the network, of which SD3 without T5 reads a width.
    """
    with quiet(), quietly():
        kind = getattr(required("diffusers", "encoding prompts"), name)
    takes = inspect.signature(kind.__init__).parameters
    needed = [key for key, each in takes.items() if key != "self" and each.default is inspect.Parameter.empty]
    extra = {
        key: value for key, value in (("requires_safety_checker", False), ("add_watermarker", False)) if key in takes
    }
    given: dict[str, Any] = dict.fromkeys(needed) | components | extra
    if "text_encoder_3" in components and components["text_encoder_3"] is None and transformer:
        diffusers = required("diffusers", "encoding prompts")
        with torch.device("meta"):
            given["transformer"] = diffusers.SD3Transformer2DModel.from_config(transformer)
    return kind(**given)


def positive(pipeline: Any, prompts: Sequence[str], max_tokens: int | None, *, instruct: bool = True) -> Tensors:
    """The prompts' tensors, by the names of the network's arguments."""
    return _named(pipeline, list(prompts), max_tokens, is_null=False, instruct=instruct)


def negative(pipeline: Any, max_tokens: int | None) -> Tensors:
    """What the pipeline puts in the place of a negative prompt that nobody gave; one row."""
    return _named(pipeline, [""], max_tokens, is_null=True, instruct=False)


def _named(pipeline: Any, prompts: list[str], max_tokens: int | None, *, is_null: bool, instruct: bool) -> Tensors:
    name = type(pipeline).__name__
    device = next(
        each.device for each in pipeline.components.values() if isinstance(each, torch.nn.Module) and not _is_meta(each)
    )
    takes = inspect.signature(pipeline.encode_prompt).parameters
    options: dict[str, Any] = {"device": device, "num_images_per_prompt": 1}
    options |= {key: None for key in ("prompt_2", "prompt_3") if key in takes}
    if "do_classifier_free_guidance" in takes:
        options["do_classifier_free_guidance"] = is_null
    if max_tokens is not None and "max_sequence_length" in takes:
        options["max_sequence_length"] = max_tokens
    if (
        instruct and "complex_human_instruction" in takes
    ):  # which the pipeline's call gives, and encode_prompt leaves out
        options["complex_human_instruction"] = (
            inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
        )
    with torch.no_grad(), quiet():
        found = pipeline.encode_prompt(prompts, **options)
    # Classes without a negative prompt return the empty one's embedding as any other's.
    chosen = 1 if is_null and "do_classifier_free_guidance" in takes else 0
    match name:
        case "StableDiffusionPipeline" | "LatentConsistencyModelPipeline":
            return {"encoder_hidden_states": found[chosen]}
        case "StableDiffusionXLPipeline":
            return {"encoder_hidden_states": found[chosen], "text_embeds": found[2 + chosen]}
        case "StableDiffusion3Pipeline":
            return {"encoder_hidden_states": found[chosen], "pooled_projections": found[2 + chosen]}
        case "FluxPipeline":
            return {"encoder_hidden_states": found[0], "pooled_projections": found[1]}
        case _:  # PixArt and Sana: embeddings and mask
            return {
                "encoder_hidden_states": found[2 * chosen],
                "encoder_attention_mask": found[2 * chosen + 1],
            }


def _is_meta(module: torch.nn.Module) -> bool:
    return next(module.parameters()).is_meta


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and remarks; that a prompt is cut, diffusers says."""
    logging = required("transformers.utils.logging", "encoding prompts")
    was_shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_shown:
            logging.enable_progress_bar()
