"""Tar shards: the same images and labels at the same positions whoever reads, from an index that follows its shard."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import tells
from PIL import Image

from lightning_diff.data import Images, Stream, WebDataset, loader, order
from lightning_diff.data.tar_index import ENDING
from lightning_diff.data.web_dataset import expanded
from lightning_diff.foundation.errors import UserError


def picture(i, size=8):
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[i % size, :, i % 3] = 10 + i
    return pixels


def encoded(i, size=8):
    file = io.BytesIO()
    Image.fromarray(picture(i, size)).save(file, "PNG")
    return file.getvalue()


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def shard(path, numbers, label=lambda i: i % 4):
    members = []
    for i in numbers:
        members.append((f"train/{i:05}.png", encoded(i)))
        if label is not None:
            members.append((f"train/{i:05}.cls", str(label(i)).encode()))
    return write(path, members)


@pytest.fixture
def shards(tmp_path):
    for k in range(3):
        shard(tmp_path / f"shards/{k:03}.tar", range(20 * k, 20 * k + 20))
    return tmp_path / "shards"


def data(path, **options):
    return WebDataset(path=path, batch_size=12, **options)


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(each, other[name]) for name, each in one.items())


def test_images_and_labels_are_those_of_the_shards(shards):
    train = data(shards).train
    images, labels = train.take(np.arange(60))
    expected = torch.stack([torch.from_numpy(picture(i)).permute(2, 0, 1) for i in range(60)])
    assert torch.equal(images, expected.float() / 127.5 - 1)
    assert torch.equal(labels, torch.arange(60) % 4)
    assert train.num_classes == 4


def test_a_tar_gives_what_a_folder_of_the_same_images_gives(shards, tmp_path):
    (tmp_path / "folder").mkdir()
    for i in range(60):
        (tmp_path / f"folder/{i:05}.png").write_bytes(encoded(i))
    names = [[f"{i:05}.png", i % 4] for i in range(60)]
    (tmp_path / "folder/dataset.json").write_text(json.dumps({"labels": names}))
    folder = Images(path=tmp_path / "folder", batch_size=12)
    positions = np.arange(100, 112)
    assert same(Stream(data(shards), 5).__getitems__(positions), Stream(folder, 5).__getitems__(positions))


@pytest.mark.parametrize("window", [None, 10])
def test_processes_and_workers_draw_the_same(shards, window):
    source = data(shards, window=window)
    alone = [next(iter(loader(source, 3, start=start))) for start in (0, 12, 24, 60)]
    for start, whole in zip((0, 12, 24, 60), alone, strict=True):
        halves = [next(iter(loader(source, 3, rank, 2, start=start))) for rank in (0, 1)]
        together = {name: torch.cat([half[name] for half in halves]) for name in whole}
        rows = together["position"].argsort()
        assert same({name: each[rows] for name, each in together.items()}, whole)
    with_workers = data(shards, window=window, workers=2)
    drawn = iter(loader(with_workers, 3))
    assert same(next(drawn), alone[0])
    assert same(next(drawn), alone[1])


@pytest.mark.parametrize("sizes", [[7], [20, 20, 20], [1, 50, 3, 17]])
@pytest.mark.parametrize("window", [1, 8, 1000])
def test_a_windowed_epoch_shows_every_image_once_near_its_shard(sizes, window):
    n = sum(sizes)
    first, second = (order.windowed(7, epoch, sizes, window) for epoch in (0, 1))
    assert np.array_equal(np.sort(first), np.arange(n))
    assert np.array_equal(first, order.windowed(7, 0, sizes, window))
    if n > 20 and window > 1:
        assert not np.array_equal(first, second)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    met = [len(set(shard_of[first[i : i + window]].tolist())) for i in range(0, n, window)]
    smallest = min(sizes)
    assert max(met) <= min(len(sizes), 2 * window // smallest + 3)


def test_an_index_is_built_once_and_read_afterwards(shards):
    _ = data(shards).train
    indices = sorted(shards.glob(f"*{ENDING}"))
    assert len(indices) == 3
    times = [path.stat().st_mtime_ns for path in indices]
    again = data(shards)
    assert len(again.train) == 60
    assert [path.stat().st_mtime_ns for path in indices] == times
    assert again.fingerprint == data(shards).fingerprint


def test_a_shard_that_changed_under_its_index_is_indexed_again_with_a_line(shards):
    _ = data(shards).train
    shard(shards / "001.tar", range(100, 130))
    source = data(shards)
    assert len(source.train) == 70
    assert tells(source.summary(), "...001.tar ... changed under its index")
    assert not tells(data(shards).summary(), "...changed under its index")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_keeps_its_indices_in_the_cache(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "cache"))
    shards.chmod(0o555)
    try:
        assert len(data(shards).train) == 60
    finally:
        shards.chmod(0o755)
    assert len(list((tmp_path / "cache/tar").iterdir())) == 3


def test_indices_that_can_be_written_nowhere_are_built_at_every_start(shards, monkeypatch):
    def full(path, index, label_key):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_diff.data.tar_index.write", full)
    source = data(shards)
    assert len(source.train) == 60
    assert tells(source.summary(), "...can be written nowhere")


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (1, "was of another version or label_key"),
        (99, "was written by a newer version of lightning_diff (format 99; this one reads up to 2)"),
    ],
)
def test_an_index_of_another_version_is_built_again_and_the_shard_is_not_said_to_have_changed(shards, version, why):
    data(shards).setup()
    index = shards / f"000.tar{ENDING}"
    with np.load(index) as found:
        other = dict(found) | {"format": np.int64(version)}
    with index.open("wb") as file:
        np.savez(file, **other)
    assert f"the index of 000.tar {why}, and was built again" in data(shards).summary()
    assert "version" not in data(shards).summary()


def test_shards_in_a_folder_of_which_one_leads_nowhere_are_refused_by_its_name(shards):
    (shards / "003.tar").symlink_to("nothing.tar")
    with pytest.raises(UserError) as error:
        data(shards).setup()
    assert tells(str(error.value), "...003.tar ... cannot be read ...")


def test_a_damaged_index_is_built_again(shards):
    _ = data(shards).train
    path = next(iter(sorted(shards.glob(f"*{ENDING}"))))
    path.write_bytes(path.read_bytes()[:50])
    assert len(data(shards).train) == 60


def test_a_source_goes_to_another_process(shards):
    train = data(shards).train
    train.take(np.arange(3))
    other = pickle.loads(pickle.dumps(train))
    assert torch.equal(other.images(np.arange(60)), train.images(np.arange(60)))


def test_labels_may_stand_in_json(tmp_path):
    members = [
        (f"{i}.{end}", content)
        for i in range(4)
        for end, content in (("jpg", encoded(i)), ("json", json.dumps({"kind": i}).encode()))
    ]
    write(tmp_path / "a.tar", members)
    source = WebDataset(path=tmp_path / "a.tar", batch_size=4, label_key="kind")
    assert source.train.label(np.arange(4)).tolist() == [0, 1, 2, 3]
    assert WebDataset(path=tmp_path / "a.tar", batch_size=4).num_classes == 0  # no "label" in them


def test_patterns():
    assert expanded("s/{008..011}.tar") == ["s/008.tar", "s/009.tar", "s/010.tar", "s/011.tar"]
    assert expanded("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert expanded("plain.tar") == ["plain.tar"]


def test_hidden_files_and_upper_case(tmp_path):
    junk = [("__MACOSX/._0.png", b"x"), (".DS_Store", b"x"), ("._0.png", b"x"), ("readme.txt", b"x")]
    write(tmp_path / "A.TAR", [*junk, ("0.PNG", encoded(0)), ("0.CLS", b"1"), ("1.png", encoded(1)), ("1.cls", b"0")])
    assert data(tmp_path).train.label(np.arange(2)).tolist() == [1, 0]


def cut(path):
    content = shard(path, range(30)).read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.write_bytes(b"no tar at all" * 100), "...a.tar ... tar file"),
        (cut, "...a.tar"),
        (lambda path: write(path, [("a.txt", b"words")]), "...a.tar ... holds no images"),
        (lambda path: shard(path, range(3), lambda i: "cat"), "...a.tar ... 00000.cls"),
        (lambda path: shard(path, range(3), lambda i: -1), "...a.tar ... 00000.cls ... -1"),
        (lambda path: shard(path, range(3), lambda i: 0.5), "...a.tar ... 00000.cls ... 0.5"),
        (
            lambda path: write(path, [("0.png", encoded(0)), ("0.cls", b"0"), ("1.png", encoded(1))]),
            "...a.tar: 1 ... label",
        ),
        (lambda path: write(path, [("0.png", b"\x89PNG broken")]), "...a.tar: 0"),
        (lambda path: path.symlink_to(path.with_name("nothing.tar")), "...a.tar ..."),
        (lambda path: path.symlink_to(path), "...a.tar ..."),  # cannot be read, whoever tries
        (lambda path: write(path, [("0.png", encoded(0)), ("1.png", encoded(1, 9))]), "...(3, 9, 9)"),
    ],
)
def test_what_is_wrong_with_a_shard_is_one_line_that_names_it(tmp_path, make, told):
    make(tmp_path / "a.tar")
    with pytest.raises(UserError) as error:
        data(tmp_path / "a.tar").setup()
    assert tells(str(error.value), told)
    assert "\n" not in str(error.value)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(UserError) as error:
        data(tmp_path / "none.tar").setup()
    assert tells(str(error.value), "...none.tar: no such")


def test_it_trains_and_resumes_from_a_recipe(shards, train, state):
    node = f"data={{_target_: lightning_diff.data.WebDataset, path: {shards}, batch_size: 16, window: 24}}"
    net = "model.net={_target_: lightning_diff.nets.UNet, channels: 8, channel_mult: [1], num_blocks: 1}"
    whole = train("whole", node, net)
    train("resumed", node, net, "trainer.max_steps=5")
    resumed = train("resumed", node, net)
    one, other = (state(Path(folder))["state_dict"] for folder in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
