"""The list of packaged recipes, and the folder that `init` makes: it trains as it is, and overwrites nothing."""

import json
import sys

import pytest
from messages import tells

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.cli import main
from lightning_diff.runs import new_folder, recipe, recipe_list

SMALL = ("trainer.max_steps=3", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1")
FEW = ("data.dataset.n=128", "data.test_dataset.n=16", "callbacks.1.steps=2", "callbacks.3.every=64")


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    """printed(*words): what a command prints in an empty folder; with code=2, its error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def printed(*words: str, code: int = 0) -> str:
        assert main(words) == code, capsys.readouterr().err
        out, err = capsys.readouterr()
        return err if code else out

    yield printed
    for name in ("stripes", "hardest"):
        sys.modules.pop(name, None)


def test_every_packaged_recipe_is_listed_with_the_first_sentence_of_its_header(printed):
    found = json.loads(printed("recipes", "--json"))["recipes"]
    assert {each["name"]: each["path"] for each in found} == {
        name: path.as_posix() for name, path in recipe.packaged().items()
    }
    lines = printed("recipes").splitlines()
    for each, line in zip(found, lines, strict=True):
        assert line.split(maxsplit=1) == [each["name"], each["summary"]]
        assert len(each["summary"]) > 20
        assert "lightning-diff" not in each["summary"]


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("One (arXiv 2301.1), in\ntwo lines. And more.\n\nRun it", "One (arXiv 2301.1), in two lines."),
        ("No full stop\n\nRun it.", "No full stop"),
        ("", ""),
    ],
)
def test_where_a_sentence_ends(header, sentence):
    assert recipe_list.first_sentence(header) == sentence


def test_the_folder_trains_as_it_is(printed, tmp_path):
    said = printed("init", "first")
    assert said == "first: recipe.yaml, stripes.py, hardest.py; lightning-diff train first/recipe.yaml\n"
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == sorted(new_folder.FILES)
    assert recipe.compose("first/recipe.yaml")["name"] == "first"
    assert "MapDataset: 128 images of 8x8, grey" in printed("train", "first/recipe.yaml", *SMALL, *FEW)
    assert (tmp_path / "runs/first/finished.json").exists()
    rows = {(row["metric"], int(row["step"])): float(row["value"]) for row in read(tmp_path / "runs/first/metrics.csv")}
    for step in (1, 2, 3):
        assert 64 * (step - 1) <= rows["hardest/position", step] < 64 * step
        assert rows["hardest/loss", step] > rows["train/unweighted_loss", step]


def test_stripes_have_their_direction_and_no_two_are_alike(printed, tmp_path, monkeypatch):
    printed("init", "first")
    monkeypatch.syspath_prepend(tmp_path / "first")
    from stripes import Stripes

    train, held_out = Stripes(1024), Stripes(256, first=1024)
    vertical, horizontal = train[4], train[6]
    assert [label for _, label in (train[i] for i in range(8))] == [0, 1, 2, 3] * 2
    assert (vertical[0] == vertical[0][:1]).all()  # the same in every row
    assert (horizontal[0] == horizontal[0][:, :1]).all()
    assert vertical[0].min() < 30
    assert vertical[0].max() > 225
    images = {data[i][0].numpy().tobytes() for data in (train, held_out) for i in range(len(data))}
    assert len(images) > 500  # of a byte for each pixel many phases look the same; no split is of one image


def test_nothing_is_overwritten_and_bad_names_are_refused(printed, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "recipe.yaml").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, facts in [
        ("taken", "taken: ... not overwritten"),
        ("file", "file: ... not overwritten"),
        ("a/b", "init: 'a/b' ... folder"),
        ("..", "init: '..' ... folder"),
        (" x", "init: ' x' ... folder"),
        ("digits_edm", "init: digits_edm ... packaged"),
    ]:
        assert tells(printed("init", name, code=2), f"error: {facts}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]
    assert (tmp_path / "taken" / "recipe.yaml").read_text() == (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_no_half_of_a_folder(printed, tmp_path, monkeypatch):
    write = new_folder.Path.write_text

    def full(path, text, **options):
        if path.name == "hardest.py":
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    monkeypatch.setattr(new_folder.Path, "write_text", full)
    assert tells(printed("init", "first", code=2), "error: first: ... No space left on device")
    assert list(tmp_path.iterdir()) == []
