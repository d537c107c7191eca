"""Lengths that a recipe gives as parts of its run: `Cosine` without `total`, a warm-up of 0.03.

The run has trainer.max_steps x data.batch_size images. `resolve` puts images in the place of parts, so that the recipe that a run
saves says what is trained, and notes under `of_run` what was written:

    of_run:
      model.learning_rate.total: {written: null, images: 307200}

`as_written` is the way back. A saved recipe is read by it, so that the lengths of a run that goes on with other trainer.max_steps
are parts of the longer run; a number that a person has put there since stays.
"""

from collections.abc import Iterator, Mapping
from typing import cast

from ...foundation.binding import Node, is_node, locate, signature
from ...foundation.errors import UserError
from ...foundation.lengths import Length, in_images, is_part, refusal
from .files import Raw
from .record import Part, Recipe


def resolve(recipe: Recipe) -> Recipe:
    """A copy of a checked recipe with images in the place of parts; the recipe itself where it has none.

    Raises:
        UserError: a length is neither images nor a share; what is below 0 is left for its class to refuse.
    """
    numbers: dict[str, int] = {}
    written: dict[str, Length] = {}
    for key, lengths in _lengths(recipe["model"], "model"):
        for name, length in lengths.items():
            if (reason := refusal(length)) is not None and not (isinstance(length, int | float) and length < 0):
                raise UserError(f"{key}.{name}: {reason}")
        parts = {name: length for name, length in lengths.items() if is_part(length)}
        if parts:
            images = in_images(lengths, run_images(recipe))
            written |= {f"{key}.{name}": length for name, length in parts.items()}
            numbers |= {f"{key}.{name}": images[name] for name in parts}
    if not written:
        return recipe
    notes = {key: Part(written=length, images=numbers[key]) for key, length in written.items()}
    model = cast(Node, _replaced(recipe["model"], "model", numbers))
    return cast(Recipe, {**recipe, "model": model, "of_run": notes})


def as_written(recipe: Raw) -> Raw:
    """A copy of a recipe that a run saved, as it was before `resolve`; any other recipe is left as it is."""
    notes = recipe.get("of_run")
    if not (isinstance(notes, Mapping) and all(_is_note(note) for note in notes.values())):
        return recipe
    rest = {key: value for key, value in recipe.items() if key != "of_run"}
    parts = {key: note["written"] for key, note in notes.items() if value_at(rest, key) == note["images"]}
    return rest | ({"model": _replaced(rest["model"], "model", parts)} if parts else {})


def run_images(recipe: Recipe) -> int:
    """Images of the whole run."""
    batch = recipe["data"].get("batch_size")
    if batch is None:  # of a class of the user's own, with a default
        parameters = signature(locate(recipe["data"]["_target_"], "data._target_")) or {}
        batch = parameters["batch_size"].default if "batch_size" in parameters else None
    if not isinstance(batch, int):
        raise UserError("data.batch_size: missing; a length that is a share of the run needs it")
    return int(recipe["trainer"]["max_steps"]) * batch


def in_the_run_of(after: Recipe, before: Recipe) -> dict[str, object]:
    """What the parts of one recipe would be in the run of another, by dotted key; empty if it has none."""
    if "of_run" not in after or "max_steps" not in before.get("trainer", {}) or "data" not in before:
        return {}
    written = cast(Recipe, as_written(cast(Raw, after)))
    there = resolve(cast(Recipe, {**written, "trainer": before["trainer"], "data": before["data"]}))
    return {key: value_at(there, key) for key in after["of_run"]}


def value_at(recipe: Mapping[str, object], key: str) -> object:
    """What stands at a dotted key; None if nothing does."""
    value: object = recipe
    for name in key.split("."):
        if isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _lengths(value: object, key: str) -> Iterator[tuple[str, dict[str, Length]]]:
    """(dotted key, lengths by argument) of every node whose target has lengths, those left out included whose default is None."""
    if isinstance(value, Mapping):
        if is_node(value) and (names := getattr(target := locate(value["_target_"], key), "OF_RUN", ())):
            defaults = {name: None for name, p in (signature(target) or {}).items() if p.default is None}
            there = {**defaults, **value}
            yield key, {name: there[name] for name in names if name in there}
        for name, part in value.items():
            yield from _lengths(part, f"{key}.{name}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _lengths(part, f"{key}.{i}")


def _replaced(value: object, key: str, new: Mapping[str, object]) -> object:
    """A copy with new values at some dotted keys, also where a mapping had none."""
    if isinstance(value, list):
        return [_replaced(part, f"{key}.{i}", new) for i, part in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    own = {name.rpartition(".")[2]: part for name, part in new.items() if name.rpartition(".")[0] == key}
    return {name: _replaced(part, f"{key}.{name}", new) for name, part in value.items()} | own


def _is_note(note: object) -> bool:
    return isinstance(note, Mapping) and note.keys() == {"written", "images"}
