"""Where a command writes what it makes, tried before it works for hours to make it."""

from collections.abc import Sequence
from pathlib import Path

from ..foundation.errors import UserError
from ..foundation.first_process import is_first_process


def writable(target: Path | None, default: Path, shape: Sequence[int]) -> Path:
    """Where to write samples of this shape, if that is possible: before any are drawn.

    Args:
        target: a .png, a .npz or a folder; None for the default.
        default: without its suffix.
        shape: of one sample.
    """
    is_picture = len(shape) == 3 and shape[0] in (1, 3)
    if target is None:
        target = default.with_name(default.name + (".png" if is_picture else ".npz"))
    if target.suffix not in (".png", ".npz", ""):
        raise UserError(f"--out: {target} is none of a .png, a .npz or a folder")
    if target.suffix != ".npz" and not is_picture:
        raise UserError(f"--out: samples of shape {list(shape)} are no pictures; give a file that ends in .npz")
    if not is_first_process():  # which writes for all
        return target
    folder = target.parent if target.suffix else target
    try:
        if target.suffix and target.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(20, f"{folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out: {target} cannot be written: {error.strerror}") from error
    return target


def refuse_unwritable(file: Path, remedy: str = "") -> None:
    """UserError if a file, a metrics.csv for instance, cannot be made or added to; `remedy` ends the message."""
    if not is_first_process():  # which writes for all
        return
    is_new = not file.exists()
    try:
        file.open("a").close()
        if is_new:
            file.unlink()  # a header is written with the first row
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}{remedy}") from error
