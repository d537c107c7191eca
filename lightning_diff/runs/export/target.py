"""What a target's writer tells of what it wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Written:
    """Of one export.

    Args:
        said: in a line, for the person who exports: what was measured.
        facts: for `export.json`.
        library: that loads it, by the name that the hub knows.
        loading: lines of Python that load it.
        notes: sentences for the model card: what is exact, what to mind.
    """

    said: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    library: str
    loading: Sequence[str]
    notes: Sequence[str] = ()
