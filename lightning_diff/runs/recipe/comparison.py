"""Where two recipes differ."""

from typing import NamedTuple

from ...foundation.binding import is_node

LEFT_OUT = object()


class Change(NamedTuple):
    """A dotted key at which two recipes differ; a value that one of them leaves out is LEFT_OUT."""

    key: str
    before: object
    after: object

    def __str__(self) -> str:
        if self.before is LEFT_OUT:
            return f"{self.key} was left out, is {self.after!r}"
        if self.after is LEFT_OUT:
            return f"{self.key} was {self.before!r}, is left out"
        return f"{self.key} was {self.before!r}, is {self.after!r}"


def changes(before: object, after: object, key: str = "") -> list[Change]:
    """Every dotted key at which two recipes, or parts of recipes, differ; a node of another target is one change."""
    if isinstance(before, dict) and isinstance(after, dict) and before.get("_target_") == after.get("_target_"):
        names = [*before, *(name for name in after if name not in before)]
        parts = [
            changes(before.get(name, LEFT_OUT), after.get(name, LEFT_OUT), f"{key}.{name}" if key else name)
            for name in names
        ]
        return [change for part in parts for change in part]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [change for i, (old, new) in pairs for change in changes(old, new, f"{key}.{i}")]
    return [] if before == after else [Change(key, _name(before), _name(after))]


def _name(value: object) -> object:
    """A node's target in its place, which is what changed."""
    return value["_target_"] if is_node(value) else value
