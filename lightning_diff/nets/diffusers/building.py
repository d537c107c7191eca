"""A class of the library from its name and configuration, both held against the installed version before anything is made."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ...foundation import extras
from ...foundation.errors import UserError
from .family import Family, Shapes


def class_of(family: Family) -> type[nn.Module]:
    """UserError where the library is missing, or too old to have the class."""
    library = extras.required("diffusers", "nets.Diffusers")
    with extras.quietly():
        found: type[nn.Module] | None = getattr(library, family.class_name, None)
    if found is None:
        raise UserError(
            f"nets.Diffusers: diffusers {getattr(library, '__version__', '')} has no {family.class_name}; install a newer one"
        )
    return found


def arguments(family: Family) -> dict[str, inspect.Parameter]:
    """What the class takes, by name."""
    takes = inspect.signature(class_of(family).__init__).parameters.items()
    return {name: each for name, each in takes if name != "self" and each.kind is not each.VAR_KEYWORD}


def completed(family: Family, config: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """The configuration with the library's defaults, and with the example's size where it leaves that out.

    Keys that begin with "_", which files have, are no arguments and are left out.

    Raises:
        UserError: an argument that the class does not take, or one that is missing.
    """
    takes = arguments(family)
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    for name in given:
        if name not in takes:
            near = difflib.get_close_matches(name, takes, 1)
            hint = f"did you mean {near[0]}?" if near else "leave it out"
            raise UserError(f"nets.Diffusers: config.{name}: {family.class_name} takes no such argument; {hint}")
    if "sample_size" in takes and "sample_size" not in given:
        square = shape[1] == shape[2] or "num_attention_heads" in takes
        given["sample_size"] = max(shape[1:]) if square else tuple(shape[1:])
    missing = [name for name, each in takes.items() if each.default is each.empty and name not in given]
    if missing:
        raise UserError(f"nets.Diffusers: config: {family.class_name} needs {', '.join(missing)}")
    return {name: given.get(name, argument.default) for name, argument in takes.items()}


def build(family: Family, config: Mapping[str, Any]) -> nn.Module:
    """The module, with random weights.

    Raises:
        UserError: the class refuses the configuration; in its own words.
    """
    try:
        return class_of(family)(**config)
    except UserError:
        raise
    except (
        ValueError,
        TypeError,
        NotImplementedError,
        KeyError,
        IndexError,
        AttributeError,
        ZeroDivisionError,
    ) as error:
        what = " ".join(str(error).split())[:200]
        raise family.wrong(f"the library refuses the configuration: {what}") from error


def refuse_unfit_shape(family: Family, config: Mapping[str, Any], shape: Sequence[int]) -> None:
    """UserError for examples of other channels than the network's, or of a size that it cannot take."""
    if len(shape) != 3:
        raise family.wrong(f"shape must be (channels, height, width), got {tuple(shape)}")
    into, out = family.in_channels(config), family.out_channels(config)
    if into != shape[0]:
        raise family.wrong(f"examples have {shape[0]} channels, and the network takes {into} (in_channels)")
    if out not in (into, 2 * into):
        raise family.wrong(f"returns {out} channels for {into} (out_channels); as many, or twice as many, are covered")
    family.refuse(config, shape)


def refuse_unfit_condition(family: Family, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """UserError for a condition of other names or widths than the network's."""
    tokens = (*shapes.get("encoder_hidden_states", ()), 77)[0]
    takes = family.condition_shapes(config, tokens)
    takes |= {name: (tokens,) for name in family.optional if name in shapes}
    missing = [name for name in takes if name not in shapes and name not in family.optional]
    if missing and not shapes:
        raise family.wrong(f"is conditioned on {_listed(takes)}; give it condition_shapes, or data with prompts")
    if missing:
        raise family.wrong(f"condition_shapes: {', '.join(missing)} missing; the network takes {_listed(takes)}")
    for name, shape in shapes.items():
        if name not in takes:
            what = f"takes {_listed(takes)}" if takes else "takes no condition"
            raise family.wrong(f"condition_shapes.{name}: the network {what}")
        if tuple(shape) != takes[name]:
            raise family.wrong(
                f"condition_shapes.{name}: is {_words(shape)}, and the network takes {_words(takes[name])}; "
                "take the text encoders that it was made for, or another configuration"
            )


def _listed(shapes: Shapes) -> str:
    return ", ".join(f"{name} ({_words(shape)})" for name, shape in shapes.items())


def _words(shape: Sequence[int]) -> str:
    """Of a sequence the width alone counts."""
    return f"{shape[-1]} wide" if len(shape) == 2 else "x".join(map(str, shape)) + " long"
