"""Values of the command line: YAML, and texts as they were written."""

from pathlib import Path

import pytest
from messages import tells

from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import recipe
from lightning_diff.runs.folder import folder_of

BASE = """
model: {_target_: lightning_diff.DiffusionModule, net: {_target_: lightning_diff.nets.MLP, width: 16, depth: 1}}
data: {_target_: lightning_diff.data.Images, path: pictures, batch_size: 16}
trainer: {accelerator: cpu, max_steps: 8}
"""

# What people call folders, and what YAML takes for something else.
TEXTS = [
    "run #1", "#1", "a # b", "a  b", "a: b", "a:", "a=b", "=", "null", "~", "yes", "no", "true", "1e3", "007", "5", "0x10", "1_000",
    "2024-01-01", "12:30", "-", "-x", "- x", "--x", "? x", "[x", "[x]", "x]", "{x", "{x: 1}", "{}", "(a)", "a,b", "lr=0.1,b=2",
    "@x", "%x", "`x`", "*x", "&x", "!x", "!!int x", "|", ">", "it's", '5" disk', "'x", '"x', "a\\b", "x.", ".x", "...x", "æøå",
    "🦊", "名前", "$HOME", "a$", "inf", ".nan", "1.0", "=x", "<x>", "x;y", "<<", "null #", "x'y'z",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("text", TEXTS)
def test_names_and_paths_are_taken_as_they_are_written(text):
    made = recipe.load("base.yaml", [f"name={text}", f"data.path={text}", f"runs_dir={text}"])
    assert (made["name"], made["data"]["path"], made["runs_dir"]) == (text, text, text)


@pytest.mark.parametrize("text", ["run #1", "null", "a: b", "[x", "🦊", "it's"])
def test_a_saved_recipe_gives_them_back(tmp_path, text):
    made = recipe.load("base.yaml", [f"name={text}", f"data.path={text}"])
    recipe.save(made, tmp_path / "saved.yaml")
    assert recipe.load("saved.yaml") == made


@pytest.mark.parametrize(
    ("text", "meant"), [("'007'", "007"), ('"a # b"', "a # b"), ("'it''s'", "it's"), ('"null"', "null")]
)
def test_quotes_around_the_whole_are_quotes(text, meant):
    made = recipe.load("base.yaml", [f"name={text}", f"data.path={text}"])
    assert (made["name"], made["data"]["path"]) == (meant, meant)


def test_interpolations_are_still_replaced():
    made = recipe.load("base.yaml", ["name=${seed} #${data.batch_size}", "seed=3", "data.path=${name}"])
    assert (made["name"], made["data"]["path"]) == ("3 #16", "3 #16")


def test_what_is_no_text_is_yaml():
    words = [
        "data.size=null",
        "data.flip=yes",
        "trainer.gradient_clip_val=1e3",
        "trainer.devices=[0]",
        "model.net.width=0x10",
    ]
    made = recipe.load("base.yaml", words)
    assert (made["data"]["size"], made["data"]["flip"]) == (None, True)
    assert made["trainer"]["gradient_clip_val"] == 1e3
    assert made["trainer"]["devices"] == [0]
    assert made["model"]["net"]["width"] == 16


def test_the_later_one_wins_whatever_it_is():
    assert recipe.load("base.yaml", ["data.path=null", "data.path=b"])["data"]["path"] == "b"
    assert recipe.load("base.yaml", ["data.path=b", "data.path=null"])["data"]["path"] == "null"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.net.width=[3", "command line: model.net.width=[3: ... YAML"),
        ("data.batch_size=4 # four", "base.yaml: data.batch_size: ... int ... '4 # four'"),
        ("trainer.max_steps={", "command line: trainer.max_steps={: ... YAML"),
        ("name=a/b", "base.yaml: name: 'a/b' ... folder"),
        ("name=", "base.yaml: name: '' ... folder"),
        ("name=..", "base.yaml: name: '..' ... folder"),
        ("name=a\nb", "base.yaml: name: ... printed"),
        pytest.param("name=a\udcff", "command line: name=a\\xff: ... UTF-8", id="no UTF-8"),
        ("name=" + "é" * 150, "base.yaml: name: 300 bytes ... 200"),
        ("data.path=a\0b", "command line: data.path: ... zero byte"),
    ],
)
def test_what_is_neither_is_refused_in_a_line(word, message):
    with pytest.raises(UserError) as error:
        recipe.load("base.yaml", [word])
    assert "\n" not in str(error.value)
    assert tells(str(error.value), message)


def test_a_tilde_before_the_runs_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made = recipe.load("base.yaml", ["runs_dir=~/runs", "name=~"])
    assert folder_of(made) == tmp_path / "home" / "runs" / "~"
    (tmp_path / "~" / "runs").mkdir(parents=True)  # from before
    assert folder_of(made) == Path("~/runs/~")
    with pytest.raises(UserError, match="runs_dir"):
        folder_of(made | {"runs_dir": "~nobody-of-that-name/runs"})
