"""The floors of the house: each wing imports only what stands below it, and rooms import each other in no circle.

`python tests/test_architecture.py` prints the floors.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lightning_diff"
# From the ground up; docs/architecture.md has the same table in words.
WINGS = (
    ("foundation",),
    ("condition",),
    ("samplers", "weighting", "statistics", "denoiser", "nets", "rewards", "tangent", "noise", "ema", "learning_rate"),
    ("text", "rollouts", "artifacts", "autoencoders", "precision", "oracle", "objectives", "schedules"),
    ("modules", "metrics", "data"),
    ("runs", "callbacks", "recipes"),
    ("cli",),
    ("__main__",),
)
WING = {room: height for height, rooms in enumerate(WINGS) for room in rooms}
MOST_ENTRIES = 29  # beside __init__.py


def files() -> dict[str, Path]:
    """Every file of the package by its dotted name below the package; "" is the package itself."""
    found = {}
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE / "callbacks").glob("*.py")]:  # rglob does not follow links
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported(name: str, path: Path, known: set[str]) -> Iterator[str]:
    """The files of ours that one file imports, at its top or in a function."""
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    here = [part for part in here if part]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("lightning_diff.") for alias in node.names if "lightning_diff." in alias.name
            )
        if not isinstance(node, ast.ImportFrom):
            continue
        start = here[: len(here) - node.level + 1] if node.level else []
        base = [*start, *(node.module or "").split(".")] if node.module else start
        if not node.level:
            if base[0] != "lightning_diff":
                continue
            base = base[1:]
        for alias in node.names:
            inside = ".".join([*base, alias.name])
            yield inside if inside in known else ".".join(base)


def arrows() -> dict[str, set[str]]:
    """Room -> the rooms that it imports."""
    known = files()
    rooms: dict[str, set[str]] = {}
    for name, path in known.items():
        if name:
            room = name.partition(".")[0]
            to = {target.partition(".")[0] for target in imported(name, path, set(known))}
            rooms[room] = rooms.get(room, set()) | (to - {room, ""})
    return rooms


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """How many rooms stand below each, one on top of another. ValueError for a circle."""
    heights: dict[str, int] = {}

    def height(room: str, above: tuple[str, ...]) -> int:
        if room in above:
            raise ValueError(" -> ".join([*above[above.index(room) :], room]))
        if room not in heights:
            heights[room] = 1 + max((height(below, (*above, room)) for below in graph[room]), default=-1)
        return heights[room]

    for room in graph:
        height(room, ())
    return heights


def circle_of_files() -> list[str]:
    """Files that import each other in a circle; empty for none."""
    known = files()
    modules = {name for name, path in known.items() if path.name != "__init__.py"}
    graph = {name: set(imported(name, known[name], set(known))) & modules - {name} for name in modules}
    try:
        floors(graph)
    except ValueError as error:
        return str(error).split(" -> ")
    return []


def test_every_room_has_a_wing():
    rooms = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    assert rooms - {"__init__", "py", "__pycache__"} == set(WING)


def test_the_package_has_few_entries():
    assert len([path for path in PACKAGE.iterdir() if path.name not in ("__init__.py", "__pycache__")]) <= MOST_ENTRIES


def test_nothing_imports_from_above():
    upward = [(room, to) for room, others in arrows().items() for to in others if WING[to] > WING[room]]
    assert not upward


def test_rooms_import_each_other_in_no_circle():
    floors(arrows())


def test_files_import_each_other_in_no_circle():
    assert not circle_of_files()


def test_every_folder_says_what_lives_in_it():
    silent = [path for path in PACKAGE.rglob("__init__.py") if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


if __name__ == "__main__":
    graph = arrows()
    heights = floors(graph)
    for floor in range(max(heights.values()), -1, -1):
        print(floor, " ".join(sorted(room for room, height in heights.items() if height == floor)))
    print(f"{len(graph)} rooms, {max(heights.values()) + 1} floors, {sum(map(len, graph.values()))} arrows")
