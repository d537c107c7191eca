"""What a model can be exported to, by name, and the order of an export: refuse, write beside, describe, put in place, push."""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...artifacts import read_record
from .. import choices
from ..named import home
from . import card, place, push
from .safetensors import export, loading
from .source import of_run
from .target import Written

# Each but the first is a file here with refuse(source) and write(source, folder).
TARGETS = ("safetensors", "diffusers", "lora", "onnx", "pt2")
FORMAT = 1  # of export.json


@dataclass(frozen=True)
class Exported:
    """What an export left.

    Args:
        path: of the folder, or of the weights for safetensors.
        said: what was measured, and where it was pushed to; "" for nothing to say.
    """

    path: Path
    said: str = ""


def write(
    run: Path,
    target: str = "safetensors",
    out: Path | None = None,
    *,
    profile: str | None = None,
    sigma_rel: float | None = None,
    images: int | None = None,
    license: str | None = None,
    repository: str | None = None,
) -> Exported:
    """Export a model.

    Args:
        run: run folder, or, but for safetensors, a folder or file that holds a model alone.
        target: of `TARGETS`.
        out: folder to write to; None for the run itself (safetensors) or export/TARGET in it.
        profile, sigma_rel, images: the average, see `checkpoint.restored`.
        license: of the weights, by its short name on the hub ("apache-2.0").
        repository: "user/name" on the hub, to push the folder to once it is written.

    Raises:
        UserError: no such target, one that does not serve this network, no model, no room, a place that holds something else,
            or a hub that cannot be reached.
    """
    choices.refuse_unknown("--to", target, TARGETS)
    described = card.Card(home(run), license=card.known_licence(license), name=(repository or "").rpartition("/")[2])
    hub = None if repository is None else push.ready(repository)
    average = {"profile": profile, "sigma_rel": sigma_rel, "images": images}
    if target == "safetensors":
        into = out if out is not None or hub is None else home(run) / "export" / target
        made = _weights(run, into, described, average)
        folder = made.path.parent
    else:
        made = _folder(run, target, out, described, average)
        folder = made.path
    if hub is None or repository is None:
        return made
    address = push.folder(hub, repository, folder)
    return Exported(made.path, "; ".join(filter(None, [made.said, f"pushed to {address}"])))


def _weights(run: Path, out: Path | None, described: card.Card, average: dict[str, Any]) -> Exported:
    """The model's own files; in another folder than the run's with a card."""
    path = export(run, out, **average)
    if out is not None and path.parent.resolve() != home(run).resolve():
        record = read_record(path)
        network = str(record.net["_target_"]).rpartition(".")[2]
        card.write(described, record, network, "safetensors", loading(), path.parent)
    return Exported(path)


def _folder(run: Path, target: str, out: Path | None, described: card.Card, average: dict[str, Any]) -> Exported:
    """A folder of files for other programs, whole or not there."""
    folder = place.chosen(out, home(run), target)
    writer = import_module(f"{__package__}.{target}")  # some import large libraries
    source = of_run(run, **average)
    writer.refuse(source)
    with place.whole(folder) as temporary:
        written: Written = writer.write(source, temporary)
        record = {"format": FORMAT, "target": target, "network": source.network_name, **written.facts}
        (temporary / place.MARK).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        card.write(described, source.record, source.network_name, target, written, temporary)
    return Exported(folder, written.said)
