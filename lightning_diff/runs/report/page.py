"""The page: its sections in order, and the one file that they become."""

import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ...foundation import extras
from ...foundation.atomic import replacing
from ...foundation.errors import UserError
from .. import compare_groups, listing, recipe
from . import pictures
from .events import as_row
from .markup import Content, Element, document, element, in_script, plain, table
from .pictures import Picture
from .record import Record, read

if TYPE_CHECKING:  # plots are plotly's, which a report alone needs
    from .plots import Plot

NOTHING = "Nothing recorded."
# The page takes nothing from anywhere, whatever a recipe says: a browser holds it to this.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
CHANGES = 40  # keys of a table of differences between recipes
LONGEST = 200  # characters of a value there


def write(folders: Sequence[Path], out: Path) -> None:
    """Write the report of these run folders, whole or not at all; in a run that is being trained it can be written again and again.

    Raises:
        UserError: no run folder, nothing recorded, plotly is missing, or the file cannot be written.
    """
    records = read(folders)
    extras.required("plotly", "report")
    text = page(records)
    try:
        with replacing(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def page(records: Sequence[Record]) -> str:
    """The page's text."""
    from plotly.offline import get_plotlyjs

    title = f"{', '.join(each.name for each in records)}: report"
    own = files(__name__.rpartition(".")[0])
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("style", (own / "style.css").read_text(encoding="utf-8")),
    )
    parts = list(_sections(records))
    links = [element("a", part[0].text or "", href=f"#{part.get('id')}") for part in parts]
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    body = element(
        "body",
        element("header", element("h1", title), element("p", f"Written {written} by {_program()}.")),
        element("nav", *links, aria_label="Sections"),
        element("main", *parts),
        _script(get_plotlyjs()),
        _script((own / "script.js").read_text(encoding="utf-8")),
    )
    return document(element("html", head, body, lang="en"))


def _sections(records: Sequence[Record]) -> Iterator[Element]:
    from . import curves, grids, levels, measured

    runs = [each.run for each in records]
    shown = compare_groups.series(compare_groups.grouped(runs))
    yield _section("runs", "Runs", [_states(records), *(element("p", text) for text in compare_groups.remarks(shown))])
    yield _section("training", "Training", [_plots(curves.training(runs))])
    yield _section("noise", "Noise levels", [_plots(levels.plots(records))])
    budget = _budget(records)
    yield _section("samples", "Samples", [_side_by_side(_sliders(records, budget))])
    yield _section("figures", "Figures", [*measured.tables(runs), _plots(measured.plots(runs))])
    if found := grids.plots(records):
        yield _section("schedule", "Schedule", [_plots(found)])
    drawn = [
        _captioned(f"{each.name}: {one.label}", one, budget)
        for each in records
        for one in pictures.of_rewards(each.folder)
    ]
    if (found := curves.rewards(runs)) or drawn:
        yield _section("reward", "Reward", [_plots(found), _side_by_side(drawn)])
    yield _section("events", "Events", [_events(records)])
    yield _section("recipe", "Recipe and versions", list(_recipes(records)))


def _section(name: str, title: str, content: Sequence[Element | None]) -> Element:
    parts: list[Content] = [part for part in content if part is not None]
    return element("section", element("h2", title), *(parts or [element("p", NOTHING)]), id=name)


def _states(records: Sequence[Record]) -> Element:
    rows = [
        [each.name, *each.listed.cells()[1:], "" if each.run.seed is None else str(each.run.seed)] for each in records
    ]
    return table([*listing.HEADER, "seed"], rows, "How far each run is")


def _recipes(records: Sequence[Record]) -> Iterator[Element]:
    first = records[0].run.settings
    for each in records[1:]:
        if first is None or each.run.settings is None:
            continue
        found = recipe.changes(plain(first), plain(each.run.settings))
        changes = [change for change in found if change.key.split(".")[0] not in recipe.NOTES][:CHANGES]
        rows = [[change.key, _value(change.before), _value(change.after)] for change in changes]
        yield table(["key", records[0].name, each.name], rows, f"What {each.name} has other than {records[0].name}")
    packages = dict.fromkeys(name for each in records for name in each.versions)
    if packages:
        shown = records[:1] if all(each.versions == records[0].versions for each in records) else records
        rows = [[name, *(each.versions.get(name, "") for each in shown)] for name in packages]
        names = [each.name for each in shown] if len(shown) == len(records) else ["all runs"]
        yield table(["", *names], rows, "Versions")
    for each in records:
        if each.command:
            yield element("p", f"{each.name} was started by ", element("code", each.command))
        if text := each.recipe():
            code = element("pre", element("code", text), tabindex="0")
            yield element("details", element("summary", f"Recipe of {each.name}"), code)


def _value(value: object) -> str:
    text = "left out" if value is recipe.LEFT_OUT else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _plots(plots: "Sequence[Plot]") -> Element | None:
    cells = [
        element(
            "figure",
            element("figcaption", plot.title),
            element("div", element("p", plot.alt), class_="plot", role="img", aria_label=plot.alt),
            element("script", in_script(plot.figure), type="application/json"),
        )
        for plot in plots
    ]
    return _side_by_side(cells)


def _side_by_side(cells: Sequence[Element | None]) -> Element | None:
    there: list[Content] = [cell for cell in cells if cell is not None]
    return element("div", *there, class_="cells") if there else None


def _budget(records: Sequence[Record]) -> int:
    """Characters for each picture, so that all of them stay below the limit."""
    count = sum(
        sum(map(len, pictures.series(each.folder).values())) + len(pictures.of_rewards(each.folder)) for each in records
    )
    return pictures.MOST_BYTES // max(count, 1)


def _sliders(records: Sequence[Record], budget: int) -> list[Element | None]:
    return [
        _slider(f"{each.name}, {name}" if name else each.name, found, budget)
        for each in records
        for name, found in pictures.series(each.folder).items()
    ]


def _slider(name: str, found: Sequence[Picture], budget: int) -> Element | None:
    """The pictures one over the other; the script shows one at a time, and without it all are there."""
    shown = [
        (one, image) for one in found if (image := _image(f"{name}: samples at {one.label}", one, budget)) is not None
    ]
    if not shown:
        return None
    cells = [element("div", image, element("p", one.label), class_="one") for one, image in shown]
    last = str(len(cells) - 1)
    control = element(
        "input", type="range", min="0", max=last, value=last, step="1", aria_label=f"{name}: which of the samples"
    )
    return element("figure", element("figcaption", name), control, *cells, class_="slider")


def _captioned(caption: str, picture: Picture, budget: int) -> Element | None:
    image = _image(caption, picture, budget)
    return None if image is None else element("figure", element("figcaption", caption), image)


def _image(alt: str, picture: Picture, budget: int) -> Element | None:
    found = pictures.embedded(picture.path, budget)
    if found is None:
        return None
    uri, width, height = found
    return element("img", src=uri, alt=alt, width=str(width), height=str(height))


def _events(records: Sequence[Record]) -> Element | None:
    rows = [[each.name, *as_row(event)] for each in records for event in each.events]
    return table(["run", "time (UTC)", "images", "what"], rows, "What happened") if rows else None


def _script(text: str) -> Element:
    return element("script", text)


def _program() -> str:
    return f"lightning_diff {version('lightning_diff')}, plotly {version('plotly')}"
