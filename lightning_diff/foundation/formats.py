"""Numbered formats of files: how a reader tells a file that is newer than itself."""

from pathlib import Path

from .errors import UserError


def newer(found: int, known: int) -> str:
    """What is to be said of a file of format `found`, after its name, by a program that reads up to `known`."""
    return f"was written by a newer version of lightning_diff (format {found}; this one reads up to {known})"


def refuse_newer(source: Path | str, found: object, known: int) -> None:
    """UserError for a file whose format this version does not know yet. TypeError where the format is no whole number."""
    if not isinstance(found, int):
        raise TypeError(f"its format is {found!r}, which is no whole number")
    if found > known:
        raise UserError(f"{source}: {newer(found, known)}; update lightning_diff")
