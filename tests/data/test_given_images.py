"""Images of a folder, a zip or an .npz, read as those that they are compared with; everything else is refused in a line."""

import json
import zipfile

import numpy as np
import pytest
import torch
from messages import tells
from PIL import Image

from lightning_diff.artifacts import pictures
from lightning_diff.data import Data, ImageSet
from lightning_diff.data.given_images import GivenImages, read_images
from lightning_diff.foundation.errors import UserError

PIXELS = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
VALUES = PIXELS / 127.5 - 1


class Reference(Data):
    """Six images that others are compared with."""

    def __init__(self, pixels=PIXELS, labels=LABELS, names=()):
        super().__init__(batch_size=1)
        self.images = ImageSet(pixels, labels, "reference", 0 if labels is None else 3, class_names=names)

    def load(self):
        return self.images, None


def every(images):
    return images.images(np.arange(len(images)))


@pytest.fixture(params=["folder", "zip", "npz"])
def written(request, tmp_path):
    """The six images as `sample` writes them, or zipped."""
    path = tmp_path / {"folder": "made", "zip": "made.zip", "npz": "made.npz"}[request.param]
    if request.param == "npz":
        pictures.save_npz(path, VALUES, LABELS)
        return path
    pictures.save_folder(tmp_path / "made", VALUES)
    if request.param == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted((tmp_path / "made").iterdir()):
                archive.write(file, file.name)
    return path


def test_what_sample_writes_comes_back(written):
    found = read_images(written, Reference())
    assert torch.equal(every(found), VALUES)
    assert found.labelled == (written.suffix == ".npz")
    if found.labelled:
        assert torch.equal(found.labels, LABELS)
    assert torch.equal(GivenImages(found).train.images(torch.arange(6)), VALUES)


def test_grey_and_rgb_meet_where_nothing_is_lost(written, tmp_path):
    coloured = Reference(PIXELS.expand(-1, 3, -1, -1))
    assert torch.equal(every(read_images(written, coloured)), VALUES.expand(-1, 3, -1, -1))
    pictures.save_folder(tmp_path / "rgb", VALUES.expand(-1, 3, -1, -1))  # as torchvision's save_image writes grey ones
    assert torch.equal(every(read_images(tmp_path / "rgb", Reference())), VALUES)
    colours = VALUES.expand(-1, 3, -1, -1).clone()
    colours[3, 2, 0, 0] = 0.9
    pictures.save_folder(tmp_path / "colours", colours)
    with pytest.raises(UserError) as error:
        read_images(tmp_path / "colours", Reference())
    assert tells(str(error.value), f"{tmp_path}/colours ... RGB ... Reference ... grey")


def test_the_folders_of_classes_by_name_or_number(tmp_path):
    for names, folders in ((("cat", "dog", "owl"), ("cat", "dog", "owl")), ((), ("0", "1", "2"))):
        place = tmp_path / "_".join(folders)
        for i, (image, label) in enumerate(zip(PIXELS, LABELS.tolist(), strict=True)):
            (place / folders[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(place / folders[label] / f"{i}.png")
        found = read_images(place, Reference(names=names))
        assert sorted(found.labels.tolist()) == sorted(LABELS.tolist())
        match = {image.numpy().tobytes(): label for image, label in zip(VALUES, LABELS.tolist(), strict=True)}
        assert [match[image.numpy().tobytes()] for image in every(found)] == found.labels.tolist()
        assert read_images(place, Reference(labels=None)).labels is None
    other = read_images(tmp_path / "cat_dog_owl", Reference())
    assert other.labels is None
    assert any("no classes" in note for note in other.origin.notes)


def test_a_missing_class_does_not_move_the_others(tmp_path):
    for folder in ("1", "2"):
        pictures.save_folder(tmp_path / "some" / folder, VALUES[:2])
    assert set(read_images(tmp_path / "some", Reference()).labels.tolist()) == {1, 2}


def test_a_label_file_and_the_table_of_an_earlier_measurement(tmp_path):
    pictures.save_folder(tmp_path / "made", VALUES)
    (tmp_path / "made" / "metrics.csv").touch()
    labels = {"labels": [[f"{i:06d}.png", label] for i, label in enumerate(LABELS.tolist())]}
    (tmp_path / "made" / "dataset.json").write_text(json.dumps(labels))
    found = read_images(tmp_path / "made", Reference())
    assert torch.equal(found.labels, LABELS)
    assert not any("csv" in note for note in found.origin.notes)


def test_samples_that_are_no_pictures(tmp_path):
    points = torch.randn(6, 2)
    pictures.save_npz(tmp_path / "points.npz", points)
    assert torch.equal(every(read_images(tmp_path / "points.npz", Reference(points, None))), points)


def save(**arrays):
    return lambda path: np.savez(path / "x.npz", **arrays)


BYTES = PIXELS.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("write", "name", "facts"),
    [
        (lambda path: None, "nowhere", "no such folder, zip or .npz"),
        (lambda path: (path / "x").mkdir(), "x", "holds no images"),
        (lambda path: (path / "x.npz").write_bytes(b"zip"), "x.npz", "is no .npz"),
        (lambda path: pictures.save_folder(path / "x", torch.zeros(2, 1, 4, 4)), "x", "4x4 ... 8x8"),
        (save(mu=np.zeros(3), sigma=np.eye(3)), "x.npz", "no images ... --reference"),
        (save(a=BYTES, b=BYTES), "x.npz", "arr_0 ... a, b"),
        (save(arr_0=BYTES[:0]), "x.npz", "no images"),
        (save(arr_0=BYTES[:, :5]), "x.npz", "8x5 ... 8x8"),
        (save(arr_0=BYTES.astype(np.int64)), "x.npz", "int64 ... uint8"),
        (save(arr_0=(BYTES / 255.0).astype(np.float32)), "x.npz", "floats from ... black -1 and white 1"),
        (save(arr_0=BYTES, arr_1=np.arange(5)), "x.npz", "6 images ... (5,)"),
        (save(arr_0=BYTES, arr_1=np.array([0, 1, 2, 3, 0, 0])), "x.npz", "label 3 ... classes 0 to 2"),
        (save(arr_0=np.array([None])), "x.npz", "cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, write, name, facts):
    write(tmp_path)
    with pytest.raises(UserError) as error:
        read_images(tmp_path / name, Reference())
    assert "\n" not in str(error.value)
    assert tells(str(error.value), f"{tmp_path / name} ... {facts}")
