"""README.md of an exported folder: what the model is, how it was trained and measured, how it is loaded. No machine's paths."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artifacts import ModelRecord
from ...artifacts.metrics_columns import PROTOCOL
from ...artifacts.metrics_rows import Row, read
from ...foundation.errors import UserError
from .. import recipe
from .target import Written

README, PICTURE = "README.md", "samples.png"
MADE_BY = "<!-- written by lightning-diff export -->"
UNSAID = "unknown"  # the hub's own word for a licence that nobody named
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
ABSOLUTE = re.compile(r"(?<![\w.:/])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\,:;'\"]+){2,}")  # paths of a machine
SHOWN = (
    "n",
    "solver",
    "steps",
    "nfe",
    "guidance",
    "ema",
    "seed",
    "reference",
)  # of a figure's protocol, where there are any
FENCE = "```"


@dataclass(frozen=True)
class Card:
    """What a person says of a card.

    Args:
        run: folder of the run, for recipe, figures and pictures.
        license: short name; None for one that nobody named.
        name: of the model; "" for the run's.
    """

    run: Path
    license: str | None = None
    name: str = ""


def known_licence(name: str | None) -> str | None:
    """As the hub writes it. UserError for what is no short name of a licence."""
    if name is not None and not LICENCE.fullmatch(name):
        raise UserError(
            f"--license: {name!r} is no licence's short name; give one such as apache-2.0, mit or cc-by-4.0"
        )
    return None if name is None else name.lower()


def write(card: Card, record: ModelRecord, network: str, target: str, written: Written, folder: Path) -> None:
    """Write the card and copy the newest picture; a README that is somebody's own stays.

    Args:
        card: what it says beside the model.
        record: of the model.
        network: name of the network's class.
        target: of the export.
        written: what is in the folder.
        folder: to write to.
    """
    path = folder / README
    if path.is_file() and MADE_BY not in path.read_text(encoding="utf-8", errors="replace"):
        return
    picture = newest_picture(card.run)
    if picture is not None:
        shutil.copyfile(picture, folder / PICTURE)
    name = card.name or card.run.resolve().name
    parts = [
        _front(card, record, written),
        f"{MADE_BY}\n# {name}",
        _what(record, network, target),
        f"![samples]({PICTURE})" if picture is not None else "",
        f"## Use\n\n{FENCE}python\n" + "\n".join(written.loading) + f"\n{FENCE}",
        "\n".join(f"- {note}" for note in written.notes),
        _figures(card.run / "metrics.csv"),
        _recipe(card.run / recipe.SAVED),
    ]
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def newest_picture(run: Path) -> Path | None:
    """The sample grid that was drawn last."""
    found = sorted((run / "samples").glob("*.png"), key=lambda path: (path.stat().st_mtime, path.name))
    return found[-1] if found else None


def without_paths(value: Any) -> Any:
    """A recipe's value with the paths of this machine cut to their last name."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str):
        return ABSOLUTE.sub(lambda found: re.split(r"[/\\]", found[0])[-1], value)
    return value


def _front(card: Card, record: ModelRecord, written: Written) -> str:
    """What the hub reads."""
    task = "text-to-image" if record.conditions.takes_condition else "unconditional-image-generation"
    tags = ["diffusion", "lightning_diff", *(["consistency-model"] if record.kind == "consistency" else [])]
    lines = [
        f"license: {card.license or UNSAID}",
        f"library_name: {written.library}",
        f"pipeline_tag: {task}",
        f"tags: [{', '.join(tags)}]",
    ]
    return "\n".join(["---", *lines, "---"])


def _what(record: ModelRecord, network: str, target: str) -> str:
    """A sentence or two."""
    shape = " x ".join(map(str, record.shape))
    classes = f", {record.num_classes} classes" if record.num_classes and not record.conditions.takes_condition else ""
    kind = "consistency model" if record.kind == "consistency" else "denoiser"
    weights = "the last step's own weights" if record.ema == "none" else f"the average {record.ema} of its weights"
    names = [name for name in record.class_names if name]
    listed = f" Classes, in order of label: {', '.join(names)}." if names else ""
    return (
        f"A {kind} ({network}, predicts {record.prediction or record.time}) for examples of shape {shape}{classes}, "
        f"trained on {record.images:,} images with lightning_diff; {weights}, exported to {target}.{listed}"
    )


def _figures(path: Path) -> str:
    """The newest figure of each kind that has a protocol, as a table."""
    rows = [row for row in (read(path) if path.is_file() else []) if row["reference"]]
    newest: dict[tuple[str, ...], Row] = {}
    for row in rows:
        newest[(row["metric"], *(row[name] for name in PROTOCOL))] = row
    last = {(row["metric"], row["solver"], row["steps"], row["guidance"]): row for row in newest.values()}
    if not last:
        return ""
    columns = [name for name in SHOWN if any(row[name] for row in last.values())]
    lines = [_line(["metric", "value", "images", *columns]), _line(["---"] * (3 + len(columns)))]
    lines += [_line(_cells(row, columns)) for row in last.values()]
    return (
        "## Figures\n\nEach with its protocol; `reference` names the data that it was measured against.\n\n"
        + "\n".join(lines)
    )


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    cells = [row["metric"], row["value"], row["images"], *(row[name] for name in columns)]
    return [str(without_paths(cell)).replace("|", "/") for cell in cells]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _recipe(path: Path) -> str:
    """The resolved recipe; nothing where there is none."""
    if not path.is_file():
        return ""
    settings = without_paths(recipe.read_yaml(path))
    settings.pop("runs_dir", None)
    text = recipe.to_yaml(settings)
    return f"## Recipe\n\n{FENCE}yaml\n{text.strip()}\n{FENCE}"
