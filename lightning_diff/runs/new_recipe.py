"""A packaged recipe copied for somebody to edit: its text, with its comments, under another name."""

import re
from pathlib import Path

from ..foundation.binding import nearest
from ..foundation.errors import UserError
from . import recipe

NAME = re.compile(r"^name:[^#\n]*?(?=\s*(?:#|$))", re.M)


def copy(name: str, origin: str, out: Path | None = None) -> Path:
    """Write the copy; returns its path.

    Args:
        name: of the new recipe; `.yaml` at its end is left out.
        origin: name of a packaged recipe.
        out: file to write; default NAME.yaml in the working folder. One that is there is not overwritten.

    Raises:
        UserError: there is no such packaged recipe, the file exists or cannot be written, the name is none.
    """
    name, shelf = own_name(name), recipe.packaged()
    if (source := shelf.get(origin.removesuffix(".yaml"))) is None:
        raise UserError(f"--from: no packaged recipe {origin}; {nearest(origin, shelf, 'there are')}")
    target = out or Path(f"{name}.yaml")
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out: {target} does not end in .yaml")
    text = renamed(source.read_text(encoding="utf-8"), name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:  # "x": also against one that appears in this moment
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{target}: is there already; it is not overwritten, choose another name or --out") from error
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def own_name(name: str, command: str = "new") -> str:
    """The name, without `.yaml` at its end. UserError for what is no folder's name, or a packaged recipe's.

    Args:
        name: as it was typed.
        command: that it was typed for.
    """
    name = name.removesuffix(".yaml")
    if Path(name).name != name or name in ("", "..") or name != name.strip():
        raise UserError(f"{command}: {name!r} is not the name of a folder, which the run's will have")
    if name in recipe.packaged():
        raise UserError(
            f"{command}: {name} is a packaged recipe; choose another name, so that `train {name}` means one thing"
        )
    return name


def renamed(text: str, name: str) -> str:
    """A recipe's text under another name; all else, comments too, as it is."""
    line = f"name: {name}" if re.fullmatch(r"[A-Za-z_][\w.+-]*", name) else "name: '{}'".format(name.replace("'", "''"))
    return NAME.sub(lambda _: line, text, count=1) if NAME.search(text) else f"{line}\n{text}"
