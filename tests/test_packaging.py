import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_of_the_tree_is_in_the_wheel():
    """The list is written out because no search follows the links callbacks and recipes; a new folder must join it."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "lightning_diff").rglob("__init__.py")}
    inside = {".".join(folder.parts) for folder in folders}
    assert listed == inside | {"lightning_diff.callbacks", "lightning_diff.recipes"}


def test_an_editable_install_is_a_path_that_type_checkers_read():
    """What setuptools asks of the layout before it writes that instead of an import hook, which mypy and pyright do not see."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"": "."}
    for package in settings["packages"]:
        assert (ROOT.joinpath(*package.split(".")) / "__init__.py").is_file(), package
