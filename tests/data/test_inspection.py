import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_diff.data import Images
from lightning_diff.data.inspection import framing_of, inspect
from lightning_diff.data.prepare import prepare
from lightning_diff.data.resize import Framing
from lightning_diff.foundation.errors import UserError


def save(path, i, size=(8, 6), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for i in range(9):
        save(tmp_path / "set" / ("cat", "dog")[i % 2] / f"{i}.png", i)
    return tmp_path / "set"


def test_it_says_what_training_would_find(folder):
    found, data = inspect(folder), Images(2, path=folder)
    assert found.count == len(data.train)
    assert found.sizes == (((8, 6), 9),)
    assert found.classes == (("cat", 5), ("dog", 4))
    assert found.std == pytest.approx(data.train.std(), rel=1e-12)
    assert found.sigma_data == data.sigma_data
    assert not found.broken
    assert found.rows == ("cat", "dog")
    cats = data.train.images(np.arange(4))
    assert torch.equal(found.samples[:4], cats) or len(found.samples) == 8


def test_broken_files_and_several_sizes_are_listed_and_end_nothing(folder):
    save(folder / "dog" / "wide.png", 30, (20, 5))
    (folder / "cat" / "bad.png").write_bytes(b"no picture")
    (folder / "cat" / "gone.png").symlink_to("nowhere.png")
    found = inspect(folder)
    assert [name for name, _ in found.broken] == ["cat/bad.png", "cat/gone.png"]
    assert found.sizes == (((8, 6), 9), ((20, 5), 1))
    assert found.classes == (("cat", 5), ("dog", 5))
    assert found.samples.shape[2:] == (6, 20)
    record = json.loads(json.dumps(found.record()))
    assert record["sizes"][1] == {"width": 20, "height": 5, "images": 1}
    assert record["broken"][0]["file"] == "cat/bad.png"
    shrunk = inspect(folder, Framing(4, 4))
    assert shrunk.sizes == (((4, 4), 10),)


def test_images_of_sixteen_bits_count_with_all_of_them(folder):
    words = np.random.default_rng(0).integers(0, 65536, (6, 8), dtype=np.uint16)
    Image.fromarray(words).save(folder / "cat" / "deep.png")
    assert inspect(folder).std == pytest.approx(Images(2, path=folder).train.std(), rel=1e-6)


def test_what_is_prepared_is_what_training_would_see(folder, tmp_path):
    save(folder / "dog" / "wide.png", 30, (20, 5))
    line = prepare(folder, tmp_path / "new" / "set.zip", Framing(4, 4, filter="lanczos"))
    assert "10 images of 4x4" in line
    made = Images(2, path=tmp_path / "new" / "set.zip")
    straight = Images(2, path=folder, size=4, filter="lanczos")
    assert torch.equal(made.train.pixels, straight.train.pixels)
    assert torch.equal(made.train.labels, straight.train.labels)
    assert made.class_names == ("cat", "dog")
    with zipfile.ZipFile(tmp_path / "new" / "set.zip") as archive:
        names = archive.namelist()
        pairs = json.loads(archive.read("dataset.json"))["labels"]
    assert names[0] == "00000/img00000000.png"
    assert pairs[-1] == ["00000/img00000009.png", 1]


def test_images_without_classes_and_of_sixteen_bits_can_be_prepared(tmp_path):
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(tmp_path / "a.png")
    line = prepare(tmp_path, tmp_path / "out.zip", Framing(4, 4))
    assert "1 of more than 8 bits" in line
    made = Images(2, path=tmp_path / "out.zip").train
    assert not made.labelled
    assert made.pixels.tolist() == [[[[255] * 4] * 4]]


def test_nothing_is_left_of_what_cannot_be_prepared(folder, tmp_path):
    (folder / "cat" / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "out" / "set.zip"
    with pytest.raises(UserError, match=r"1 of 10 .*cat/bad\.png"):
        prepare(folder, out, Framing(4, 4))
    assert not list(out.parent.iterdir())
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"set\.zip: is there"):
        prepare(folder, out, Framing(4, 4))
    with pytest.raises(UserError, match=r"\.zip"):
        prepare(folder, tmp_path / "set.tar", Framing(4, 4))
    (folder / "cat" / "bad.png").unlink()
    with pytest.raises(UserError, match=r"8x6 .*size=7"):
        prepare(folder, tmp_path / "b.zip", Framing(7, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [((4, "crop", "area"), "--resize"), ((4, "pad", "box"), "--filter"), ((0, "pad", "area"), "--size")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        framing_of(*options)
