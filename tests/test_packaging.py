import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_of_the_tree_is_in_the_wheel():
    """The list is written out because no search follows the links callbacks and recipes; a new folder must join it."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "lightning_diff").rglob("__init__.py")}
    inside = {".".join(folder.parts) for folder in folders}
    assert listed == inside | {"lightning_diff.callbacks", "lightning_diff.recipes"}


def test_every_recipe_is_in_the_wheel():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "lightning_diff").rglob("*.yaml")}
    folders.add(Path("lightning_diff/recipes"))  # a link
    assert {name for name, patterns in data.items() if "*.yaml" in patterns} == {
        ".".join(each.parts) for each in folders
    }


def test_an_editable_install_is_a_path_that_type_checkers_read():
    """What setuptools asks of the layout before it writes that instead of an import hook, which mypy and pyright do not see."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"": "."}
    for package in settings["packages"]:
        assert (ROOT.joinpath(*package.split(".")) / "__init__.py").is_file(), package
