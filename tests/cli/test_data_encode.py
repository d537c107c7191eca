"""`data encode` makes what training reads, all at once or after kills, alone or in company, and refuses in one line."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import yaml
from messages import tells
from texts import Letters

from lightning_diff.cli import app as cli
from lightning_diff.data import Captions, Digits
from lightning_diff.foundation import caches
from lightning_diff.runs import encode

DIGITS = {"_target_": "lightning_diff.data.Digits", "batch_size": 1}
LATENTS = {
    "_target_": "lightning_diff.data.Latents",
    "batch_size": 32,
    "source": DIGITS,
    "autoencoder": {
        "_target_": "lightning_diff.autoencoders.Pair",
        "module": {"_target_": "tiny_autoencoder.Killed"},
        "scale": 1.4,
    },
}
CAPTIONS = {
    "_target_": "lightning_diff.data.Captions",
    "batch_size": 32,
    "source": LATENTS,
    "captions": ["the digit {class}"],
    "held_out": ["a handwritten {class}"],
    "text": {"_target_": "texts.Letters"},
}
NET = {"_target_": "lightning_diff.nets.UNet", "channels": 16, "channel_mult": [1], "num_blocks": 1, "attention": []}
COUNT = 1797


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with recipes, and a cache in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(caches.OWN, str(tmp_path / "cache"))
    model = {"_target_": "lightning_diff.DiffusionModule", "net": NET}
    trainer = {"accelerator": "cpu", "max_steps": 2}
    for name, data in {"latents": LATENTS, "captions": CAPTIONS, "digits": DIGITS}.items():
        recipe = {"name": name, "model": model, "data": data, "trainer": trainer}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def made(cache="cache"):
    """Every file of a cache but locks, by name."""
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in sorted(Path(cache).rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def encoded(*words, cache="cache", killed_at=None):
    """Run the command in a process of its own."""
    environment = {caches.OWN: str(Path(cache).absolute())} | (
        {} if killed_at is None else {"KILLED_AT": str(killed_at)}
    )
    done = forked.run("data", "encode", *words, env=environment)
    assert done.returncode == (0 if killed_at is None else -signal.SIGKILL), done.stderr
    return done


@pytest.mark.whole
def test_training_reads_what_was_encoded_ahead_of_it(place):
    said = encoded("latents.yaml").stdout
    assert tells(said, f"encoding {COUNT:,} images with Killed: ... KiB of latents in ...")
    assert tells(said.splitlines()[-1], "latents: ... latents, ... KiB")
    before = made()
    done = forked.run("train", "latents.yaml", env={"KILLED_AT": "1"})  # it may encode one of zeros, for the shape
    assert done.returncode == 0, done.stderr
    assert "encoding" not in done.stdout + done.stderr
    assert made() == before
    sigma_data = json.loads(Path("runs/latents/model.json").read_text())["sigma_data"]
    assert f"standard deviation {sigma_data:.4g}" in said


def test_the_measured_standard_deviation_is_held_against_the_scale(place):
    assert "was expected" not in encoded("latents.yaml").stdout
    said = encoded("latents.yaml", "data.autoencoder.scale=0.2").stdout
    assert "encoding" not in said
    assert tells(said, "... encoded for scale 1.4, shift 0, read with scale 0.2, shift 0 ...")
    assert tells(said, "... standard deviation ... 1 was expected; autoencoder.scale times ...")


def test_encoding_that_was_killed_goes_on_and_ends_in_the_same_bytes(place):
    for at in (500, 900):  # images that each of these starts gets to, whatever was there before
        encoded("latents.yaml", killed_at=at)
        assert not list(Path("cache").rglob("*.latents"))
    done = forked.run("train", "latents.yaml", env={"KILLED_AT": "400"})
    assert done.returncode == -signal.SIGKILL
    assert "going on" in encoded("latents.yaml").stdout
    encoded("latents.yaml", cache="other")
    assert made() == made("other")


def test_a_signal_ends_it_in_words(place):
    done = forked.run("data", "encode", "latents.yaml", env={"KILLED_AT": "500", "KILLED_BY": "SIGTERM"})
    assert done.returncode == 75
    assert done.stderr.splitlines()[-1] == "stopped by SIGTERM while encoding; the same command goes on where it was"
    assert "going on" in encoded("latents.yaml").stdout


def test_two_processes_share_the_work_and_make_the_same(place):
    one, two = forked.run_two("data", "encode", "latents.yaml")
    assert (one.stdout + two.stdout).count("encoding") == 1
    encoded("latents.yaml", cache="other")
    assert made() == made("other")


def test_captions_of_latents_have_both_encoded_and_what_they_are_sampled_with(place):
    done = encoded("captions.yaml")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[-2:]] == ["embeddings of captions", "latents"]
    assert len(list(Path("cache").rglob("*.safetensors"))) == 2  # captions and held-out ones
    before = made()
    encoded("captions.yaml")
    assert made() == before


def test_a_process_that_fails_is_told_of_and_the_work_is_done(place, monkeypatch, capsys):
    def failed(words, slot, processes):
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        process.wait()
        return process

    monkeypatch.setattr(encode, "_start", failed)
    assert cli.main(["data", "encode", "latents.yaml", "trainer.devices=2"]) == 0
    said = capsys.readouterr().out
    assert tells(said, "... 2 processes share the work ... process 2 of 2 ended with exit code 3 ...")
    assert list(Path("cache").rglob("record.json"))


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["latents.yaml", "data.max_gib=1.0e-9"], "error: latents.yaml: data: data.max_gib: ... KiB ..."),
        (["captions.yaml", "data.max_gib=1.0e-9"], "error: captions.yaml: data: data.max_gib: ... GiB ..."),
        (["latents.yaml", "data.encode=fly"], "error: ...latents.yaml: data.encode is fly ... cache"),
        (["digits.yaml"], "error: ...digits.yaml: data: Digits has nothing to encode ..."),
        (["nowhere.yaml"], "error: ... nowhere.yaml ..."),
    ],
)
def test_what_cannot_be_encoded_is_one_line_and_writes_nothing(place, capsys, words, facts):
    if words[0] == "captions.yaml":
        words = [*words, "data.source=" + json.dumps(DIGITS)]
    assert cli.main(["data", "encode", *words]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert tells(err, facts.replace("...latents", "latents").replace("...digits", "digits")), err
    assert made() == {}


def test_embeddings_that_differ_in_the_encoder_alone_say_so(place, capsys):
    for scale in (1.0, 2.0):
        Captions(8, source=Digits(batch_size=1), captions=["{class}"], text=Letters(scale)).setup()
    assert tells(capsys.readouterr().out, "... does not do: scale was 1.0 and is 2.0")
