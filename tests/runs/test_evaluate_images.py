"""Images that lie on a disk: the figures of a model that draws them, the floors of those held out, and errors before any work."""

import csv
import re

import numpy as np
import pytest
from messages import tells

from lightning_diff.artifacts import pictures
from lightning_diff.cli import main
from lightning_diff.data import Digits
from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import features, inception

DIGITS = "data={_target_: lightning_diff.data.Digits, batch_size: 64, conditional: false}"


@pytest.fixture
def digits():
    data = Digits(batch_size=1)
    data.setup()
    return data


@pytest.fixture
def command(capsys):
    """command(*words): what a command prints; with code=2, its error."""

    def run(*words: str, code: int = 0) -> str:
        assert main([str(word) for word in words]) == code, capsys.readouterr()
        out, err = capsys.readouterr()
        return err if code else out

    return run


def table(path) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


def test_what_a_model_drew_gets_the_model_s_figures(train, command):
    run = train("one", DIGITS, "trainer.max_steps=1")
    command("sample", "one", "-n", 90, "--steps", 2, "--out", "drawn.npz", "--seed", 5)
    command("sample", "one", "-n", 90, "--steps", 2, "--out", "drawn", "--seed", 5)
    command("evaluate", "one", "-n", 90, "--steps", 2, "--feature", "pixels", "--seed", 5)
    of_model = table(run / "metrics.csv")
    for path, where in (("drawn.npz", "drawn.metrics.csv"), ("drawn", "drawn/metrics.csv")):
        printed = command("evaluate", "--images", path, "--data", "one", "--feature", "pixels")
        of_images = table(where)
        assert re.search(
            rf"^n 90, reference {of_images['frechet_pixels']['reference']}; added to {where}$", printed, re.M
        )
        for metric, row in of_images.items():
            assert row["value"] == of_model[metric]["value"], metric
            assert (row["n"], row["reference"]) == (of_model[metric]["n"], of_model[metric]["reference"])
            assert row["step"] == row["images"] == row["solver"] == ""
    assert [line for line in printed.splitlines() if "passed over" in line] == []


def test_held_out_images_score_the_floor_against_a_recipe_or_moments(tmp_path, monkeypatch, command, digits):
    monkeypatch.chdir(tmp_path)
    index = np.arange(len(digits.test))
    pictures.save_npz("held_out.npz", digits.test.images(index), digits.test.label(index))
    command("evaluate", "--images", "held_out.npz", "--data", "digits_edm", "--feature", "pixels", "--out", "a.csv")
    rows = table("a.csv")
    for metric in [metric for metric in rows if not metric.endswith("_floor")]:
        assert float(rows[metric]["value"]) == pytest.approx(
            float(rows[f"{metric}_floor"]["value"]), rel=1e-6, abs=1e-9
        )
    said = command("evaluate", "--data", "digits_edm", "--feature", "pixels", "--write-reference", "ref.npz")
    assert tells(said, "ref.npz: moments of 1,297 images, 64 features ... pixels")
    said = command("evaluate", "--images", "held_out.npz", "--reference", "ref.npz", "--out", "b.csv", "-n", 200)
    assert "precision" in said.splitlines()[-1]
    (metric,) = table("b.csv")
    assert metric == "frechet_pixels"
    assert table("b.csv")[metric]["seed"] == "0"


def test_a_model_against_other_images_and_moments(train, command, digits):
    run = train("one", DIGITS, "trainer.max_steps=1")
    pictures.save_folder("reference", digits.train.images(np.arange(200)))
    command(
        "evaluate",
        "one",
        "-n",
        90,
        "--steps",
        2,
        "--feature",
        "pixels",
        "--data",
        "reference",
        "--write-reference",
        "r.pkl",
    )
    whole = table(run / "metrics.csv")["frechet_pixels"]
    command("evaluate", "one", "-n", 90, "--steps", 2, "--data", "reference", "--reference", "r.pkl")
    alone = table(run / "metrics.csv")["frechet_pixels"]
    assert float(alone["value"]) == pytest.approx(float(whole["value"]), rel=1e-6)
    assert alone["reference"] != whole["reference"]


@pytest.fixture
def place(tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "load_or_train", lambda *_: pytest.fail("a classifier was trained"))
    images = digits.train.images(np.arange(80))
    pictures.save_npz("some.npz", images)
    pictures.save_npz("few.npz", images[:20])
    pictures.save_npz("small.npz", images[:, :, ::2, ::2])
    (tmp_path / "empty").mkdir()
    np.savez("edm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez("own.npz", mu=np.zeros(7), sigma=np.eye(7))
    monkeypatch.setenv("LIGHTNING_DIFF_INCEPTION", str(tmp_path / "none.pth"))
    monkeypatch.setenv("LIGHTNING_DIFF_DINOV2", str(tmp_path / "none.pth"))
    monkeypatch.setattr(inception, "_library", lambda: None)
    return tmp_path


AGAINST = ("--data", "digits_edm")


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ((), "evaluate: ... RUN ... --images"),
        (("one", "--images", "some.npz"), "--images: ... one"),
        (("--images", "some.npz"), "--images: ... --data ... --reference"),
        (("--images", "some.npz", "--steps", "3", *AGAINST), "--steps: ..."),
        (("--images", "some.npz", "--search", *AGAINST), "--search: ..."),
        (("one", "--out", "x.csv"), "--out: ... --images"),
        (("--images", "some.npz", "--out", "x.txt", *AGAINST), "--out: x.txt ... .csv"),
        (("--images", "empty", *AGAINST), "empty: holds no images"),
        (("--images", "small.npz", *AGAINST), "small.npz: ... 4x4 ... 8x8"),
        (("--images", "few.npz", *AGAINST), "evaluate: 20 images of few.npz ... 64 features"),
        (("--images", "some.npz", "-n", "90", *AGAINST), "--n: 90 ... 80"),
        (("--images", "some.npz", "--data", "digits_emd"), "--data: digits_emd: ... digits_edm"),
        (("--images", "some.npz", "--data", "empty"), "empty: holds no images"),
        (("--images", "some.npz", "--reference", "few.npz"), "few.npz: lacks mu and sigma"),
        (
            ("--images", "some.npz", "--reference", "edm.npz", "--feature", "pixels"),
            "edm.npz: ... 2048 ... pixels ... 64",
        ),
        (
            ("--images", "some.npz", "--reference", "edm.npz"),
            "evaluate: 80 images of some.npz ... 2048 ... fid_inception",
        ),
        (("--images", "some.npz", "--reference", "own.npz"), "own.npz: ... 7 features ... --feature"),
        (
            ("--images", "some.npz", "--reference", "own.npz", "--feature", "classifier"),
            "--feature: classifier ... --data",
        ),
        (("--write-reference", "x.npz"), "--write-reference: ... --data"),
        (("--write-reference", "x.txt", *AGAINST), "x.txt: ... .npz ... .pkl"),
        (("--write-reference", "x.npz", "--reference", "edm.npz", *AGAINST), "--write-reference: ..."),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(place, command, words, facts):
    message = command("evaluate", *words, code=2)
    assert message.count("\n") == 1
    assert tells(message, f"error: {facts}")
    assert sorted(path.name for path in place.iterdir()) == [
        "edm.npz",
        "empty",
        "few.npz",
        "own.npz",
        "small.npz",
        "some.npz",
    ]


@pytest.mark.parametrize(
    ("feature", "variable"), [("fid_inception", "LIGHTNING_DIFF_INCEPTION"), ("dinov2", "LIGHTNING_DIFF_DINOV2")]
)
def test_missing_weights_are_told_at_every_door(place, train, command, feature, variable, monkeypatch):
    """In training before the run folder is made, in a dry run, and of images and models before anything is measured."""
    monkeypatch.setattr("lightning_diff.metrics.dinov2._library", lambda: None)
    monkeypatch.setattr("lightning_diff.metrics.dinov2.DinoV2.dim", 8)
    monkeypatch.setattr(inception.Inception, "dim", 8)
    callback = f"callbacks=[{{_target_: lightning_diff.callbacks.Evaluate, feature: {feature}}}]"
    with pytest.raises(UserError) as error:
        train("one", DIGITS, callback)
    assert tells(str(error.value), f"... Evaluate: ... none.pth ... '{feature}' ... {variable}")
    assert not (place / "runs").exists()
    dry = command("train", "--dry-run", "one.yaml", DIGITS, callback, code=2)
    assert tells(dry, f"error: ... Evaluate: ... none.pth ... '{feature}'")
    of_images = command("evaluate", "--images", "some.npz", *AGAINST, "--feature", feature, code=2)
    assert tells(of_images, f"error: evaluate: ... none.pth ... '{feature}'")
    train("two", DIGITS, "trainer.max_steps=1")
    assert tells(
        command("evaluate", "two", "--feature", feature, code=2), f"... error: evaluate: ... none.pth ... '{feature}'"
    )
