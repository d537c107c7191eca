import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_of_the_tree_is_in_the_wheel():
    """The list is written out because callbacks/ and recipes/ install from the top; a new folder must join it."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "lightning_diff").rglob("__init__.py")}
    inside = {".".join(folder.parts) for folder in folders}
    assert listed == inside | {"lightning_diff.callbacks", "lightning_diff.recipes"}
