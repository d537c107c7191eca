"""Caches: the folder that is named, the home folder's, or a temporary one, said."""

import os
from pathlib import Path

import pytest
from messages import tells

from lightning_diff.foundation import caches


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    for name in (caches.OWN, *caches.LIBRARIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def nobody(monkeypatch):
    """A user whom the system does not know."""

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)


def test_below_the_home_folder_nothing_is_said_or_set(tmp_path):
    assert caches.folder() == (tmp_path / "home" / ".cache" / "lightning_diff", "")
    environment = {}
    assert not caches.provide(environment)
    assert not environment


def test_without_a_home_it_is_temporary_and_said(tmp_path, nobody):
    place, remark = caches.folder()
    assert place == tmp_path / "temporary" / caches.NAME
    assert place.stat().st_mode & 0o777 == 0o700
    assert tells(remark, f"no home ... {place} ... LIGHTNING_DIFF_CACHE")
    environment = {"TORCH_HOME": "mine"}
    assert caches.provide(environment) == remark
    assert set(environment) == set(caches.LIBRARIES)
    assert environment["TORCH_HOME"] == "mine"
    assert Path(environment["MPLCONFIGDIR"]).is_relative_to(place)


@pytest.mark.parametrize("home", ["a file", "x" * 300])
def test_a_home_that_cannot_be_written_is_said(tmp_path, monkeypatch, home):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    remark = caches.provide({})
    assert tells(remark, f"... cannot be written ... {tmp_path / 'temporary'} ... LIGHTNING_DIFF_CACHE ...")


def test_the_folder_that_is_named_serves_whatever_the_home(tmp_path, monkeypatch, nobody):
    monkeypatch.setenv(caches.OWN, str(tmp_path / "named"))
    environment = {}
    assert caches.folder() == (tmp_path / "named", "")
    assert not caches.provide(environment)
    assert environment["HF_HOME"] == str(tmp_path / "named" / "huggingface")


def test_a_named_folder_that_cannot_be_written_is_said_and_still_read(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(caches.OWN, str(tmp_path / "file" / "below"))
    assert tells(caches.folder()[1], f"{tmp_path / 'file' / 'below'} cannot be written ... LIGHTNING_DIFF_CACHE")
    assert caches.wanted() == tmp_path / "file" / "below"
    monkeypatch.setenv(caches.OWN, "~/mine")
    assert caches.folder() == (tmp_path / "home" / "mine", "")


def test_a_name_that_somebody_else_has_taken_is_not_used(tmp_path, nobody):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "temporary" / caches.NAME).symlink_to(tmp_path / "elsewhere")
    place, _ = caches.folder()
    assert place.parent == tmp_path / "temporary"
    assert place.name != caches.NAME
    assert os.access(place, os.W_OK)
