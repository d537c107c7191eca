"""Facts of the data filled into a recipe, and its parts built; what binds and calls a node is `foundation.binding`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ...foundation.binding import Node, bind, construct, is_node, locate, signature
from ...foundation.errors import UserError
from .record import Recipe, naming


def build(value: object, key: str, source: Path | str | None = None) -> Any:
    """The object that a node describes, built from the inside out; lists and dicts of nodes likewise.

    Args:
        value: a part of a recipe.
        key: its dotted key, for messages.
        source: the recipe's file, for messages.

    Raises:
        UserError: an argument does not fit its annotation, or a constructor refused it.
    """
    with naming(source):
        bound = bind(value, Any, key)
        try:
            return construct(bound)
        except Exception as error:
            if (
                type(error).__name__ != "MisconfigurationException"
            ):  # Lightning's way to refuse, which is not imported for it
                raise
            raise UserError(f"{key}: {' '.join(str(error).split())}") from error


def fill_facts(recipe: Recipe, facts: Mapping[str, object]) -> Recipe:
    """A copy in which each node under `model` has the facts of the data that its target takes and that are left out.

    Before them come the arguments that the model's target knows from somewhere else: if it has a function `recipe_facts`, that
    takes the node and returns them.

    Args:
        recipe: as `load` returns it.
        facts: `Data.facts()`: shape, num_classes, sigma_data, augment_dim.
    """

    def filled(value: object, key: str) -> object:
        if isinstance(value, list):
            return [filled(item, f"{key}.{i}") for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        node = {name: filled(item, f"{key}.{name}") for name, item in value.items()}
        takes = signature(locate(node["_target_"], f"{key}._target_")) or {} if is_node(node) else {}
        return node | {name: fact for name, fact in plain.items() if name in takes and name not in node}

    plain = {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()}
    model = recipe["model"]
    if is_node(model) and (own := getattr(locate(model["_target_"], "model._target_"), "recipe_facts", None)):
        model = model | own(model)
    return recipe | {"model": cast(Node, filled(model, "model"))}
