import json

import numpy as np
import pytest
from messages import tells
from PIL import Image

from lightning_diff.cli import app as cli


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        path = tmp_path / "set" / f"[{'ab'[i % 2]}]" / f"{i}.png"  # brackets are rich's markup
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), 40 * i, np.uint8)).save(path)
    return tmp_path


def test_inspect_prints_a_table_and_draws_a_picture(place, capsys):
    assert cli.main(["data", "inspect", "set"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("6, RGB", "5x4: 6", "[a]: 3", "[b]: 3", "sigma_data"))
    assert (place / "set_samples.png").stat().st_size > 0
    assert out.splitlines()[-1] == "set_samples.png"


def test_inspect_prints_json_and_names_what_is_broken(place, capsys):
    (place / "set" / "[a]" / "9.PNG").write_bytes(b"no picture")
    assert cli.main(["data", "inspect", "set", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["count"] == 6
    assert record["broken"][0]["file"] == "[a]/9.PNG"
    assert not list(place.glob("*.png"))
    assert cli.main(["data", "inspect", "set", "--size", "2", "--resize", "pad", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["sizes"] == [{"width": 2, "height": 2, "images": 6}]


def test_prepare_writes_a_zip(place, capsys):
    assert cli.main(["data", "prepare", "set", "out.zip", "--size", "4"]) == 0
    assert capsys.readouterr().out.startswith("out.zip: 6 images of 4x4; 2 classes")
    assert cli.main(["data", "inspect", "out.zip", "--picture", "p.png"]) == 0
    assert (place / "p.png").is_file()


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["inspect", "nowhere"], "error: nowhere: no such"),
        (["inspect", "set", "--picture", "a.jpg"], "error: --picture: a.jpg"),
        (["inspect", "set", "--size", "2", "--resize", "crop"], "error: --resize: ... 'crop' ... pad"),
        (["prepare", "set", "out.tar", "--size", "2"], "error: out.tar: ... .zip"),
        (["prepare", "set", "out.zip", "--size", "9"], "error: set: ... 6 of 6"),
    ],
)
def test_mistakes_are_one_line(place, capsys, words, facts):
    assert cli.main(["data", *words]) == 2
    err = capsys.readouterr().err
    assert tells(err, facts)
    assert len(err.splitlines()) == 1
