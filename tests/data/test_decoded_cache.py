import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_diff.data import Images, ImageSet, Stream, images
from lightning_diff.data.decoded import cache as decoded_cache
from lightning_diff.data.decoded.cache import LIMIT_GIB
from lightning_diff.foundation.errors import UserError


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def save(path, i, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    for i in range(20):
        save(tmp_path / "set" / "ab"[i % 2] / f"{i:02d}.png", i)
    return tmp_path / "set"


def cached(path, **options):
    data = Images(4, path=path, **{"cache": "always", "test_fraction": 0.3} | options)
    data.setup()
    return data


def entries(room):
    return sorted(path for path in room.iterdir() if path.is_dir())


@pytest.fixture
def reads(monkeypatch):
    """What is decoded from now on, by name of the source."""
    said = []
    decode = images.decode

    def counted(where, *rest):
        said.append(where)
        return decode(where, *rest)

    monkeypatch.setattr(images, "decode", counted)
    return said


def test_what_is_mapped_is_what_was_decoded(folder, room, reads):
    memory = cached(folder, cache="never")
    first, second = cached(folder), cached(folder)
    assert len(reads) == 4  # two splits, twice
    for data in (first, second):
        assert data.facts() == memory.facts()
        assert data.summary() == memory.summary()
        assert data.fingerprint == memory.fingerprint
        for mapped, plain in ((data.train, memory.train), (data.test, memory.test)):
            assert isinstance(mapped, ImageSet)
            assert mapped.mapped is not None
            assert (mapped.name, mapped.std(), mapped.fingerprint()) == (plain.name, plain.std(), plain.fingerprint())
            assert torch.equal(mapped.pixels, plain.pixels)
            assert torch.equal(mapped.labels, plain.labels)
        ours, theirs = (Stream(each, 0).__getitems__(range(30)) for each in (data, memory))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_floats_that_come_late_widen_the_file(folder, room):
    words = np.random.default_rng(0).integers(0, 65536, (6, 8), dtype=np.uint16)
    Image.fromarray(words).save(folder / "b" / "99.png")
    memory, mapped = cached(folder, cache="never"), cached(folder)
    assert mapped.train.pixels.dtype == torch.float32
    assert torch.equal(mapped.train.pixels, memory.train.pixels)
    assert mapped.fingerprint == memory.fingerprint
    assert mapped.sigma_data == memory.sigma_data


def test_a_set_goes_to_another_process_by_its_path(folder, room):
    train = cached(folder).train
    sent = pickle.dumps(train)
    assert len(sent) < train.pixels.numel()
    assert torch.equal(pickle.loads(sent).pixels, train.pixels)


def test_small_sets_stay_in_memory_unless_they_are_wanted(folder, room, monkeypatch):
    cached(folder, cache="auto")
    assert not room.exists()
    monkeypatch.setattr(decoded_cache, "LEAST", 1)
    cached(folder, cache="auto")
    assert len(entries(room)) == 1


def touch(folder):
    os.utime(folder / "a" / "00.png", (1, 1))


def add(folder):
    save(folder / "a" / "77.png", 77)


def swap(folder):
    save(folder / "a" / "00.png", 78)


@pytest.mark.parametrize("change", [touch, add, swap])
def test_files_that_changed_are_decoded_again_and_that_is_said(folder, room, reads, capsys, change):
    cached(folder)
    change(folder)
    capsys.readouterr()
    again = cached(folder)
    assert "older than the files" in capsys.readouterr().err
    assert again.fingerprint == cached(folder, cache="never").fingerprint
    assert len(entries(room)) == 1


def cut(entry):
    os.truncate(entry / "train", 100)


def overwrite(entry):
    content = bytearray((entry / "train").read_bytes())
    content[-1] ^= 255
    (entry / "train").write_bytes(content)


def lose(name):
    return lambda entry: (entry / name).unlink()


def rewrite(entry):
    (entry / "facts.json").write_text('{"format": 1, "state": ')


def version(number):
    def write(entry):
        text = (entry / "facts.json").read_text()
        (entry / "facts.json").write_text(text.replace('"format": 1', f'"format": {number}'))

    return write


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (cut, "damaged"),
        (overwrite, "damaged"),
        (lose("train"), "damaged"),
        (lose("test.labels.npy"), "damaged"),
        (lose("facts.json"), "damaged"),
        (rewrite, "damaged"),
        (version(0), "older version"),
        (version(2), "newer version of lightning_diff (format 2; this one reads up to 1)"),
    ],
)
def test_a_damaged_copy_is_made_again_and_that_is_said(folder, room, capsys, harm, word):
    before = cached(folder).fingerprint
    harm(entries(room)[0])
    capsys.readouterr()
    assert cached(folder).fingerprint == before
    first, *_ = capsys.readouterr().err.splitlines()
    assert str(entries(room)[0]) in first
    assert word in first
    cached(folder)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{"size": 4}, {"size": 4, "filter": "adm"}, {"limit": 3}, {"channels": 1}, {"test_fraction": 0.0}]
)
def test_other_options_have_a_copy_of_their_own(folder, room, options):
    cached(folder)
    assert cached(folder, **options).fingerprint == cached(folder, **options, cache="never").fingerprint
    assert len(entries(room)) == 2
    cached(folder, flip=True, workers=2)  # which change no image
    assert len(entries(room)) == 2


def test_a_zip_is_not_even_opened_again(folder, room, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    before = cached(tmp_path / "set.zip").fingerprint
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert cached(tmp_path / "set.zip").fingerprint == before


def test_where_nothing_can_be_written_images_stay_in_memory(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "file"))
    data = cached(folder)
    assert data.fingerprint == cached(folder, cache="never").fingerprint
    (said,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in said
    assert "memory" in said


def full(monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(decoded_cache.shutil, "disk_usage", lambda path: usage._replace(free=0))


def full_later(monkeypatch):
    def refuse(store, image):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded_cache.InFile, "put", refuse)


@pytest.mark.parametrize("fill", [full, full_later])
def test_on_a_full_disk_images_stay_in_memory(folder, room, monkeypatch, capsys, fill):
    fill(monkeypatch)
    data = cached(folder)
    assert data.train.mapped is None
    assert "memory of each process" in capsys.readouterr().err.splitlines()[-1]
    assert not [path for path in room.iterdir() if path.suffix != ".lock"]


def test_the_copies_that_were_not_used_for_longest_make_room(folder, room, monkeypatch, capsys):
    for i, size in enumerate((3, 4, 5)):
        cached(folder, size=size)
        newest = max(entries(room), key=lambda path: (path / "facts.json").stat().st_mtime_ns)
        os.utime(newest / "facts.json", (1000 * (i + 1),) * 2)
    cached(folder, size=3)  # used again
    capsys.readouterr()
    kept = max(entries(room), key=lambda path: (path / "facts.json").stat().st_mtime_ns)
    room_for = decoded_cache.entry.size_of(kept) + 20 * 3 * 6 * 6
    monkeypatch.setenv(LIMIT_GIB, str(room_for / 2**30))
    cached(folder, size=6)
    deleted = [line for line in capsys.readouterr().err.splitlines() if "deleted" in line]
    assert len(deleted) == 2
    assert all(LIMIT_GIB in line for line in deleted)
    assert len(entries(room)) == 2
    cached(folder, size=3)
    assert not capsys.readouterr().err
    monkeypatch.setenv(LIMIT_GIB, "plenty")
    with pytest.raises(UserError, match=f"{LIMIT_GIB}=plenty"):
        cached(folder, size=2)


def test_one_process_decodes_and_the_others_read(folder, room, monkeypatch, reads):
    """Another one has come first, between the look at the entry and the lock."""
    cached(folder)
    read, looks = decoded_cache.entry.read, []

    def late(*where):
        looks.append(where)
        return (None, "") if len(looks) == 1 else read(*where)

    monkeypatch.setattr(decoded_cache.entry, "read", late)
    data = cached(folder)
    assert data.train.mapped is not None
    assert len(reads) == 3  # of the last one only the first image, before it knows how large they are


def test_what_a_killed_process_left_goes(folder, room):
    cached(folder)
    (entry,) = entries(room)
    left = room / f".{entry.name}.99999.tmp"
    left.mkdir()
    (left / "train").write_bytes(b"half")
    os.truncate(entry / "train", 0)
    cached(folder)
    assert not left.exists()


def test_broken_images_are_named_and_leave_nothing(folder, room):
    (folder / "a" / "00.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a/00\.png"):
        cached(folder)
    (folder / "a" / "00.png").unlink()
    (folder / "b" / "19.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"b/19\.png"):
        cached(folder)
    assert not [path for path in room.iterdir() if path.suffix != ".lock"]


def test_a_link_that_leads_nowhere_is_named(folder, room):
    (folder / "a" / "zz.png").symlink_to("nothing.png")
    with pytest.raises(UserError, match=r"a/zz\.png"):
        cached(folder)


def test_links_in_circles_end(folder, room):
    (folder / "a" / "again").symlink_to(folder, target_is_directory=True)
    assert cached(folder).fingerprint == cached(folder).fingerprint
    assert Path(folder).is_dir()
