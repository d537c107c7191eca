"""A folder of one's own to start from: a commented recipe, a data set and a callback, which train as they are."""

from importlib.resources import files
from pathlib import Path

from ..foundation.atomic import delete
from ..foundation.errors import UserError
from .new_recipe import own_name, renamed

RECIPE = "recipe.yaml"
FILES = (RECIPE, "stripes.py", "hardest.py")  # of runs/starter


def make(name: str) -> Path:
    """Make the folder in the working folder, whole or not at all; returns its path.

    Args:
        name: of the folder, of the recipe in it and of the runs that it trains.

    Raises:
        UserError: the name is none, or is taken, or nothing can be written.
    """
    folder = Path(own_name(name, "init"))
    source = files(f"{__package__}.starter")
    texts = {each: source.joinpath(each).read_text(encoding="utf-8") for each in FILES}
    texts[RECIPE] = renamed(texts[RECIPE], folder.name)
    try:
        folder.mkdir()  # fails where there is anything, also if that appears in this moment
    except FileExistsError as error:
        raise UserError(f"{folder}: is there already; it is not overwritten, choose another name") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}") from error
    try:
        for each, text in texts.items():
            (folder / each).write_text(text, encoding="utf-8")
    except OSError as error:
        delete(folder)
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    return folder
