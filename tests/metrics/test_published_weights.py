"""Published weights: named, found in the caches, fetched once, checked; one line with where to get them and where to put them."""

import hashlib
from pathlib import Path

import pytest
import torch
from messages import tells

from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics.published_weights import PublishedWeights

CONTENT = b"weights"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A cache, torch.hub's folder, and a file to be fetched."""
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOME_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "net.pth").write_bytes(CONTENT)
    return tmp_path


def weights(places: Path, content: bytes = CONTENT, file: str = "net.pth") -> PublishedWeights:
    url = (places / "server" / file).as_uri()
    return PublishedWeights("some_space", "net.pth", url, "SOME_WEIGHTS", hashlib.sha256(content).hexdigest())


def told(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_is_fetched_once_and_kept(places):
    assert weights(places).read() == CONTENT
    (places / "server" / "net.pth").unlink()
    assert weights(places).find() == places / "cache" / "net.pth"
    assert weights(places).read() == CONTENT


def test_the_environment_then_the_caches_come_first(places, monkeypatch):
    (places / "hub" / "checkpoints").mkdir(parents=True)
    (places / "hub" / "checkpoints" / "net.pth").write_bytes(CONTENT)
    assert weights(places).find() == places / "hub" / "checkpoints" / "net.pth"
    (places / "own.pth").write_bytes(CONTENT)
    monkeypatch.setenv("SOME_WEIGHTS", str(places / "own.pth"))
    assert weights(places).find() == places / "own.pth"
    monkeypatch.setenv("SOME_WEIGHTS", str(places / "none.pth"))
    assert tells(told(weights(places).find), f"{places}/none.pth ... some_space ... SOME_WEIGHTS")


def test_what_cannot_be_fetched_says_where_to_get_it_and_where_to_put_it(places):
    message = told(weights(places, file="gone.pth").find)
    assert tells(message, f"feature space 'some_space' ... net.pth ... {places}/cache ... SOME_WEIGHTS")
    assert "gone.pth" in message


def test_another_file_is_not_kept_and_not_used(places, monkeypatch):
    other = weights(places, b"other")
    assert tells(told(other.find), "... sha256 ... some_space")
    assert not (places / "cache" / "net.pth").exists()
    monkeypatch.setenv("SOME_WEIGHTS", str(places / "server" / "net.pth"))
    assert tells(told(other.read), f"{places}/server/net.pth: sha256 ... SOME_WEIGHTS")
