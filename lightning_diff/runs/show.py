"""A recipe shown without training: what its author says of it, and which noise levels it trains."""

from pathlib import Path

from ..foundation.errors import UserError
from ..modules import TrainingModule
from . import emphasis, recipe
from .build import build_model
from .console import quieten
from .describe import known_facts
from .recipe import Recipe


def show(settings: Recipe, source: Path | str, out: Path | None = None) -> str:
    """The comment that a recipe begins with, and its noise levels as bars.

    Args:
        settings: as `recipe.load` returns it.
        source: the recipe's file.
        out: where to draw the noise levels, too, as a PNG.

    Raises:
        UserError: a picture is wanted of a module that has no law of noise levels.
    """
    quieten()
    comment = _comment(Path(source))
    facts, _, _ = known_facts(settings, source)
    filled = recipe.fill_facts(settings, facts)
    module = build_model(filled["model"], source, on_meta=True)
    if not isinstance(module, TrainingModule):
        if out is not None:
            raise UserError(f"{source}: {type(module).__name__} has no law of noise levels to draw")
        return comment
    found, sigma_data = emphasis.emphasis(module), module.denoiser.sigma_data
    if out is not None:
        emphasis.draw(out, found, sigma_data, str(settings["name"]))
    return "\n".join(part for part in (comment, emphasis.lines(found, sigma_data)) if part)


def _comment(path: Path) -> str:
    """The first lines of a file that begin with #."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(words)
