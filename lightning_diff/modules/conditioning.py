"""What the stream of examples supplies against what a network takes: nothing goes missing on the way without a word."""

import inspect
from collections.abc import Iterator

import torch
from torch import nn

from ..condition import Condition, Prompts, TakesCondition, refuse_unlike, takes_condition
from ..data import Data
from ..foundation.errors import UserError


def augment_dim(net: nn.Module) -> int | None:
    """Length of the augmentation vector that a network takes, 0 for none; None if it takes one and does not tell its length."""
    if (dim := getattr(net, "augment_dim", None)) is not None:
        return int(dim)
    takes = inspect.signature(net.forward).parameters
    takes_it = "augment" in takes or any(each.kind is each.VAR_KEYWORD for each in takes.values())
    return None if takes_it else 0


def refuse_unfit(net: nn.Module, data: Data, num_classes: int) -> None:
    """UserError for augmentation that the network is not told of, and for labels beyond those that it knows.

    Args:
        net: trained on the images of `data`.
        data: the source.
        num_classes: of the training module.
    """
    if data.augment is not None and (own := augment_dim(net)) is not None and own != data.augment.dim:
        if own == 0:
            raise UserError(
                "data.augment: the network has no input for the augmentation vector, and would learn to generate turned and "
                f"shifted images; leave data.augment out, or train a network with augment_dim={data.augment.dim}"
            )
        raise UserError(
            f"model.net.augment_dim: the network takes {own} numbers, data.augment gives {data.augment.dim}; leave it out"
        )
    refuse_unlike_condition(net, data)
    if takes_condition(net):
        return
    if num_classes and data.num_classes > num_classes:
        raise UserError(
            f"model.num_classes: {num_classes}, and the data have {data.num_classes} classes; leave it out, or take fewer data"
        )
    if num_classes and not data.num_classes:
        raise UserError(
            f"model.num_classes: {num_classes}, and the data have no labels; leave it out, or take labelled data"
        )


def refuse_unlike_condition(net: nn.Module, data: Data) -> None:
    """UserError for data whose condition is not what the network takes."""
    if not takes_condition(net):
        return
    assert isinstance(net, TakesCondition)
    if data.condition_shapes is None:
        names = ", ".join(net.condition_shapes)
        raise UserError(
            f"model.net: is conditioned on {names}, and the data have none; give the data prompts or embeddings"
        )
    try:
        refuse_unlike(net.condition_shapes, data.condition_shapes, "model.net and the data")
    except ValueError as error:
        raise UserError(str(error)) from error


def refuse_buckets(data: Data, name: str) -> None:
    """UserError for images in buckets, where they are not what is trained on.

    Args:
        name: of the training module.
    """
    if data.in_buckets is not None:
        raise UserError(f"data.buckets: {name} trains on what its model draws, in one shape; leave data.buckets out")


def keep_null_condition(net: nn.Module, data: Data) -> None:
    """Give the network the data's null condition. UserError where it has another one."""
    if not takes_condition(net) or (null := data.null_condition) is None:
        return
    assert isinstance(net, TakesCondition)
    if (own := net.null_condition) is None:
        net.keep_null_condition(null)
        return
    for name, each in own.tensors.items():
        other = null.tensors[name].to(each.device, each.dtype)
        if not torch.allclose(each, other, rtol=1e-2, atol=1e-3 * float(each.abs().max())):
            raise UserError(
                f"data: the null condition (of the empty prompt) differs from the model's in {name}: other text encoders"
            )


def null_condition(net: nn.Module, key: str) -> Condition:
    """What a network takes as no condition. UserError that names what needs it where none is known."""
    assert isinstance(net, TakesCondition)
    if (found := net.null_condition) is None:
        raise UserError(
            f"{key}: neither the data nor the model know what no condition is; the empty prompt's embedding"
        )
    return found


def prompts(net: nn.Module, data: Data) -> Prompts:
    """The data's prompts, for a network that takes conditions. UserError where there are none, or of another kind."""
    assert isinstance(net, TakesCondition)
    if (found := data.prompts) is None:
        raise UserError(f"data: have no prompts, and the model is conditioned on {', '.join(net.condition_shapes)}")
    try:
        refuse_unlike(net.condition_shapes, found.condition.shapes, "the model and the prompts of the data")
    except ValueError as error:
        raise UserError(str(error)) from error
    return found


def remarks(net: nn.Module, data: Data, num_classes: int) -> Iterator[str]:
    """A line for each thing that the data have and the training does not use."""
    if data.condition_shapes is not None and not takes_condition(net):
        yield "model: the network takes no condition, so that the data's is not used"
    if not data.num_classes or takes_condition(net):
        return
    if not num_classes or getattr(net, "num_classes", num_classes) == 0:
        where = "the module" if not num_classes else "the network"
        yield f"model: {where} has no classes, so that the data's {data.num_classes} are not used; its samples have no label"
    elif data.num_classes < num_classes:
        yield f"model: {num_classes} classes, of which the data have {data.num_classes}; the others are not trained"


def unused_remarks(data: Data) -> Iterator[str]:
    """A line for what is to be done to images that are not trained on."""
    for name in ("flip", "augment"):
        if getattr(data, name):
            yield f"data.{name}: is not used; this module trains on what its model draws, not on the images"
