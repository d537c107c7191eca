import pickle
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_diff.data import Images, MapDataset, Stream
from lightning_diff.foundation.errors import UserError

SIZES = ((8, 12), (20, 8), (8, 8), (9, 31), (16, 16))


@cache
def photograph(i):
    height, width = SIZES[i]
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Photographs:
    classes = ("even", "odd")

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, i):
        return Image.fromarray(photograph(i)), i % 2


@pytest.fixture
def folder(tmp_path):
    for i in range(len(SIZES)):
        path = tmp_path / Photographs.classes[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photograph(i)).save(path)
    return tmp_path


def sources(folder, **options):
    options = {"size": 8, "resize": "random_crop"} | options
    return Images(5, path=folder, **options), MapDataset(5, dataset=Photographs(), **options)


def test_a_crop_is_a_function_of_seed_and_position(folder):
    for data in sources(folder):
        whole = Stream(data, seed=3).__getitems__(range(50))["image"]
        assert torch.equal(Stream(data, seed=3).__getitems__([41, 7])["image"], whole[[41, 7]])
        assert not torch.equal(Stream(data, seed=4).__getitems__(range(50))["image"], whole)


def test_crops_are_parts_of_their_images_and_others_in_each_epoch(folder):
    data = Images(5, path=folder, size=8, resize="random_crop")
    batch = Stream(data, seed=0).__getitems__(range(100))
    crops = {tuple(((image + 1) * 127.5).round().byte().flatten().tolist()) for image in batch["image"]}
    assert len(crops) > 2 * len(SIZES)
    wide = next(i for i in range(5) if data.train.shapes[i].tolist() == [3, 8, 12])
    parts = [photograph(0)[:, x : x + 8] for x in range(5)]
    assert tuple(parts[2].transpose(2, 0, 1).flatten().tolist()) in crops
    middle = (data.train.images(np.array([wide]))[0] + 1) * 127.5
    assert np.array_equal(middle.round().byte().permute(1, 2, 0).numpy(), parts[2])


def test_the_sources_agree_in_what_they_show(folder):
    images, items = sources(folder)
    of_folder = [0, 2, 4, 1, 3]  # even/0.png, even/2.png, ..., odd/3.png
    positions = np.arange(10, 15)
    one, labels = images.train.take_at(np.arange(5), 9, positions)
    other, others = items.train.take_at(np.array(of_folder), 9, positions)
    assert torch.equal(one, other)
    assert torch.equal(labels, others)
    assert torch.equal(images.train.take(np.arange(5))[0], items.train.take(np.array(of_folder))[0])


def test_crops_from_a_file_are_those_from_memory(folder, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
    memory = Images(5, path=folder, size=8, resize="random_crop", cache="never")
    for _ in range(2):
        mapped = Images(5, path=folder, size=8, resize="random_crop", cache="always")
        assert mapped.fingerprint == memory.fingerprint
        assert mapped.sigma_data == memory.sigma_data
        assert mapped.facts() == memory.facts()
        assert mapped.summary() == memory.summary()
        ours = pickle.loads(pickle.dumps(mapped.train)).take_at(np.arange(5), 1, np.arange(5))
        theirs = memory.train.take_at(np.arange(5), 1, np.arange(5))
        assert all(map(torch.equal, ours, theirs))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_images_of_several_sizes_need_a_way_to_one(folder):
    with pytest.raises(UserError, match=r"1 of 12x8 .*resize .*pad"):
        Images(5, path=folder).setup()
    with pytest.raises(UserError, match="resize"):
        MapDataset(5, dataset=Photographs()).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "pad"}, "size=None, resize=pad"),
        ({"size": 8, "resize": "none"}, "size=8, resize=none"),
        ({"size": [8, 8, 8]}, "size"),
        ({"size": [8, 0]}, "size"),
        ({"size": 8, "crop_from": 12}, "crop_from"),
        ({"size": 8, "resize": "random_crop", "crop_from": 7}, "crop_from"),
    ],
)
def test_options_that_contradict_each_other_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        Images(2, path="nowhere", **options)


def test_one_way_is_enough_for_all(folder):
    assert Images(5, path=folder, resize="none", limit=1).shape[0] == 3
    assert Images(5, path=folder, size=[4, 6], resize="stretch", filter="adm").shape == (3, 4, 6)
    assert Images(5, path=folder, size=32, resize="pad").shape == (3, 32, 32)
    assert MapDataset(5, dataset=Photographs(), size=8).shape == (3, 8, 8)
