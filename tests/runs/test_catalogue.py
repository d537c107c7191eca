"""What `describe` lists is what the package exports; what it says of one is what its signature says. And copies of recipes."""

import inspect
import re

import pytest
from messages import tells

import lightning_diff.callbacks
import lightning_diff.data
import lightning_diff.nets
import lightning_diff.noise
import lightning_diff.rewards
import lightning_diff.weighting
from lightning_diff.cli import main
from lightning_diff.foundation.binding import locate, signature
from lightning_diff.noise.laws import TrainingLaw
from lightning_diff.runs import catalogue, recipe
from lightning_diff.samplers import SOLVERS
from lightning_diff.weighting import Weighting

MINE = '''
from collections.abc import Sequence
from torch import nn


class Net(nn.Module):
    """A network of mine.

    It has a second line.

    Args:
        shape: of a picture.
        width, depth: of it, in
            neurons.
    """

    def __init__(self, shape: Sequence[int], width: int = 3, *, depth: "int | None" = None): ...


Made = type("Made", (), {"__doc__": "Made by a call.", "__init__": lambda self, knob=3: None})
'''


@pytest.fixture
def printed(capsys, tmp_path, monkeypatch):
    """printed(*words): what a command prints, in a folder with a file of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_of_catalogue.py").write_text(MINE)

    def printed(*words: str, code: int = 0) -> str:
        assert main(words) == code
        out, err = capsys.readouterr()
        return err if code else out

    return printed


def listed() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in catalogue.entries():
        found.setdefault(entry.kind, set()).add(entry.name)
    return found


def test_the_list_is_what_the_rooms_export():
    found = listed()

    def exported(room, belongs) -> set[str]:
        return {name for name in room.__all__ if inspect.isclass(kind := getattr(room, name)) and belongs(kind)}

    assert found["networks"] == set(lightning_diff.nets.__all__)
    assert found["callbacks"] == set(lightning_diff.callbacks.__all__)
    weightings = exported(lightning_diff.weighting, lambda kind: issubclass(kind, Weighting) and kind is not Weighting)
    assert found["weightings"] == weightings
    laws = exported(lightning_diff.noise, lambda kind: issubclass(kind, TrainingLaw) and kind is not TrainingLaw)
    assert found["noise laws"] == laws
    data = lightning_diff.data.Data
    assert found["data sources"] == exported(
        lightning_diff.data, lambda kind: issubclass(kind, data) and kind is not data
    )
    rewards = exported(
        lightning_diff.rewards, lambda kind: "__call__" in vars(kind) and not hasattr(kind, "_is_protocol")
    )
    assert found["rewards"] == rewards
    assert found["solvers"] == set(SOLVERS)
    assert found["packaged recipes"] == set(recipe.packaged())
    assert {"Cosine", "Constant"} <= found["learning rates"]
    assert {"karras", "art", "gits", "ays"} <= found["schedules"]


def test_everything_listed_can_be_imported_and_says_what_it_is():
    for entry in catalogue.entries():
        assert entry.summary, entry.name
        if entry.defined is not None:
            assert inspect.getdoc(locate(entry.path, "key")).partition("\n")[0] == entry.summary


def test_a_line_each(printed):
    lines = printed("describe").splitlines()
    for entry in catalogue.entries():
        assert any(re.match(rf"  {entry.name} +{re.escape(entry.summary)}$", line) for line in lines), entry.name


def test_one_with_all_its_options(printed):
    for name in ("UNet", "lightning_diff.nets.UNet", "unet", "nets.UNet"):
        text = printed("describe", name)
        assert text.startswith("lightning_diff.nets.UNet")
        for parameter in signature(lightning_diff.nets.UNet).values():
            assert re.search(rf"^  {parameter.name}: ", text, re.M)
    assert "  channels: int = 128\n      base width; even." in text
    assert "norm: Norm = 'additive'" in text


def test_options_of_a_base_class_are_explained(printed):
    assert "  workers: int = 0\n      loader processes" in printed("describe", "Digits")


def test_one_of_ones_own_and_what_no_file_tells(printed):
    text = printed("describe", "mine_of_catalogue.Net")
    assert "A network of mine.\n\nIt has a second line.\n\nOptions" in text
    assert "  shape: Sequence[int]  (needed; a recipe has it from the data)\n      of a picture." in text
    assert "  width: int = 3\n      of it, in neurons." in text
    assert "= None\n      of it, in neurons." in text
    made = printed("describe", "mine_of_catalogue.Made")
    assert "Made by a call." in made
    assert "knob" in made
    assert "lr: float | Tensor = 0.001" in printed("describe", "torch.optim.Adam")


def test_a_name_that_several_things_have_shows_them_all(printed):
    text = printed("describe", "consistency")
    assert "lightning_diff.samplers.consistency" in text
    assert "lightning_diff.schedules.consistency" in text


@pytest.mark.parametrize(("name", "facts"), [("UNett", "UNet"), ("digits_emd", "digits_edm"), ("nets.UNett", "nets")])
def test_a_misspelt_name(printed, name, facts):
    assert tells(printed("describe", name, code=2), f"error: describe: ... {facts}")


def test_a_packaged_recipe_is_told_by_its_header(printed):
    text = printed("describe", "digits_edm")
    assert catalogue.header(recipe.packaged()["digits_edm"].read_text()) in text
    assert "new NAME --from digits_edm" in text


@pytest.mark.parametrize("origin", recipe.packaged())
def test_a_copy_differs_in_its_name_alone(printed, tmp_path, origin):
    printed("new", "my_run", "--from", origin)
    before, after = (path.read_text().splitlines() for path in (recipe.packaged()[origin], tmp_path / "my_run.yaml"))
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [(f"name: {origin}", "name: my_run")]
    assert recipe.compose("my_run.yaml") == recipe.compose(origin) | {"name": "my_run"}


def test_where_a_copy_goes_and_what_is_no_copy(printed, tmp_path):
    printed("new", "a b", "--from", "digits_edm", "--out", "deep/er.yaml")
    assert recipe.compose("deep/er.yaml")["name"] == "a b"
    before = (tmp_path / "deep/er.yaml").read_bytes()
    for words, facts in [
        (["x", "--from", "digits_edm", "--out", "deep/er.yaml"], "deep/er.yaml: ... not overwritten"),
        (["x", "--from", "digits_emd"], "--from: ... digits_emd ... digits_edm"),
        (["deep/er", "--from", "digits_edm"], "new: 'deep/er' ... folder"),
        (["x/y", "--from", "digits_edm"], "new: 'x/y' ... folder"),
        (["digits_scd", "--from", "digits_edm"], "new: digits_scd ... packaged"),
        (["x", "--from", "digits_edm", "--out", "x.txt"], "--out: x.txt ... .yaml"),
        (["x", "--from", "digits_edm", "--out", "mine_of_catalogue.py/x.yaml"], "mine_of_catalogue.py/x.yaml: ..."),
        (["x"], "Missing option '--from'"),
    ]:
        assert tells(printed("new", *words, code=2), f"error: {facts}")
    assert (tmp_path / "deep/er.yaml").read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == []
