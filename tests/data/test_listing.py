"""Which files of a folder or a zip are images and what classes they have."""

import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from lightning_diff.data import Images
from lightning_diff.foundation.errors import UserError


def save(path, i=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)


def folder(root, names):
    for i, name in enumerate(names):
        save(root / name, i)
    return root


def labels(path, pairs):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"labels": pairs}))


def zipped(root, target, **options):
    with zipfile.ZipFile(target, "w", **options) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root).as_posix())
    return target


def found(path, **options):
    """(images, labels or None)."""
    train = Images(2, path=path, **options).train
    return len(train), None if train.labels is None else train.labels.tolist()


EDM = [f"{i // 2:05d}/img{i:08d}.png" for i in range(6)]
FFHQ = [f"{i // 2 * 1000:05d}/{i // 2 * 1000 + i % 2:05d}.png" for i in range(6)]
IMG2DATASET = [f"{i // 2:05d}/{i // 2:05d}{i % 2:04d}.png" for i in range(6)]


@pytest.mark.parametrize("prefix", ["", "set/", "one/two/"])
@pytest.mark.parametrize("at", ["", "set/", "one/two/"])
def test_a_label_file_is_found_wherever_all_images_lie(tmp_path, prefix, at):
    if not prefix.startswith(at):
        return
    root = folder(tmp_path / "root", [prefix + name for name in EDM])
    for named in {prefix.removeprefix(at), ""}:
        labels(root / at / "dataset.json", [[f"{named}{name}", i % 3] for i, name in enumerate(EDM)])
        assert found(root) == (6, [0, 1, 2, 0, 1, 2])
        assert found(zipped(root, tmp_path / "a.zip")) == (6, [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("prefix", ["", "images1024x1024/", "a/b/"])
@pytest.mark.parametrize("names", [EDM, FFHQ, IMG2DATASET])
def test_numbered_parts_are_no_classes_unless_wanted(tmp_path, prefix, names):
    root = folder(tmp_path, [prefix + name for name in names])
    assert found(root) == (6, None)
    assert "parts" in Images(2, path=root).summary()
    assert found(root, labels="folders") == (6, [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    "names",
    [
        ["0/1.png", "1/2.png"],
        ["00000/00000_00000.png", "00001/00000_00000.png"],
        ["0000045/001.png", "0000099/001.png"],
        ["00001/00001_0001.png", "00002/00002_0001.png"],
    ],
    ids=["digits", "GTSRB", "faces", "named after the class"],
)
def test_numbered_classes_are_classes(tmp_path, names):
    assert found(folder(tmp_path, names)) == (2, [0, 1])


@pytest.mark.parametrize(
    "names",
    [("train", "val"), ("images1024x1024", "thumbnails128x128"), ("Training_Set", "Test_Set"), ("images", "masks")],
)
def test_splits_and_kinds_of_files_are_no_classes(tmp_path, names):
    root = folder(tmp_path, [f"set/{name}/cat/1.png" for name in names])
    with pytest.raises(UserError, match=rf"{min(names)}, {max(names)} .*path .*labels"):
        Images(2, path=root).setup()
    assert found(root, labels="folders") == (2, [i for i, _ in enumerate(names)])


def test_held_out_images_of_one_class_have_the_classes_of_training(tmp_path):
    train = folder(tmp_path / "train", ["set/cat/1.png", "set/dog/2.png"])
    data = Images(2, path=train, test_path=folder(tmp_path / "test", ["dog/1.png", "dog/2.png"]))
    assert data.test.labels.tolist() == [1, 1]


def test_what_systems_put_beside_images_is_passed_over(tmp_path):
    root = folder(
        tmp_path / "set",
        [
            "cat/1.png",
            "dog/2.png",
            "@eaDir/1.png/SYNOPHOTO_THUMB_M.png",
            "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.png",
            ".thumbnails/1.png",
            "__MACOSX/cat/1.png",
            "cat/._1.png",
            "#recycle/3.png",
            "$RECYCLE.BIN/3.png",
        ],
    )
    for name in ("Thumbs.db", "cat/Thumbs.db", "notes.txt", "cat/1.tga"):
        (root / name).write_bytes(b"x")
    for path in (root, zipped(root, tmp_path / "set.zip")):
        assert found(path) == (2, [0, 1])
        summary = Images(2, path=path).summary()
        assert all(
            words in summary for words in ("2 images of 4x4, RGB", "2 classes by its folders", "1 .tga", "1 .txt")
        )


def test_a_class_without_images_is_said(tmp_path):
    """Or cat/ beside an empty dog/ would be a set without classes in silence."""
    root = folder(tmp_path / "set", ["cat/1.png", "cat/2.PNG", "cat/3.JPG"])
    for name in ("dog", "hen/young", ".git/x", "cat/__MACOSX"):
        (root / name).mkdir(parents=True)
    for path in (root, zipped(root, tmp_path / "set.zip")):
        assert found(path) == (3, None)
        assert "no image in folders dog, hen; " in Images(2, path=path).summary() + "; "
    save(root / "dog/1.png")
    assert found(root) == (4, [0, 0, 0, 1])
    assert "no image in folder hen" in Images(2, path=root).summary()


def test_every_real_file_counts_once(tmp_path):
    root, elsewhere = folder(tmp_path / "set", ["z/1.png", "z/2.png"]), folder(tmp_path / "else", ["3.png", "4.png"])
    (root / "again").symlink_to(".")
    (root / "z/up").symlink_to("..")
    (root / "a").symlink_to("z")
    (root / "z/other.png").symlink_to("1.png")
    (root / "z/new.png").symlink_to(elsewhere / "3.png")
    (root / "z/twice.png").symlink_to(elsewhere / "3.png")
    (root / "more").symlink_to(elsewhere)
    os.mkfifo(root / "z/pipe.png")
    data = Images(2, path=root)
    assert len(data.train) == 4
    assert "links to what is counted already" in data.summary()
    (root / "z/gone.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"z/gone\.png"):
        Images(2, path=root).setup()


def test_names_may_be_any_bytes(tmp_path):
    root = tmp_path / os.fsdecode(b"se\xe9t")
    folder(root, ["1.png", os.fsdecode(b"caf\xe9.png")])
    (root / os.fsdecode(b"b\xe9.txt")).write_text("")
    data = Images(2, path=root, test_fraction=0.01)
    assert len(data.train) == 2
    assert data.summary().encode("utf-8")
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(UserError, match=r"caf\\xe9\.png") as caught:
        Images(2, path=root).setup()
    assert str(caught.value).encode("utf-8")


def test_one_name_in_two_spellings(tmp_path):
    """Accents composed or not; UTF-8 in a zip that does not say so; backslashes."""
    folder(tmp_path / "set", ["cafe\u0301.png"])
    labels(tmp_path / "set/dataset.json", [["caf\u00e9.png", 3]])
    assert found(tmp_path / "set", classes=4) == (1, [3])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "set/cafe\u0301.png", "caf\u00e9.png".encode().decode("cp437"))
        archive.write(tmp_path / "set/dataset.json", "dataset.json")
    assert found(tmp_path / "a.zip", classes=4) == (1, [3])
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in ("cat", "dog"):
            archive.write(tmp_path / "set/cafe\u0301.png", f"set\\{name}\\1.png")
    assert found(tmp_path / "b.zip") == (2, [0, 1])


def test_ids_and_labels_from_one(tmp_path):
    root = folder(tmp_path / "train", ["0.png", "1.png", "2.png"])
    labels(root / "dataset.json", [[f"{i}.png", 10**9 + 7 * i] for i in range(3)])
    with pytest.raises(UserError, match=r"1,000,000,014.* ids"):
        Images(2, path=root).setup()
    held_out = folder(tmp_path / "test", ["0.png"])
    labels(held_out / "dataset.json", [["0.png", 10**9 + 14]])
    data = Images(2, path=root, test_path=held_out, relabel=True)
    assert (data.train.labels.tolist(), data.num_classes, data.test.labels.tolist()) == ([0, 1, 2], 3, [2])
    labels(held_out / "dataset.json", [["0.png", 5]])
    with pytest.raises(UserError, match="no label 5"):
        Images(2, path=root, test_path=held_out, relabel=True).setup()
    labels(root / "dataset.json", [[f"{i}.png", 1 + i] for i in range(3)])
    with pytest.warns(UserWarning, match="class 0 of 4 has no image"):
        assert Images(2, path=root).num_classes == 4
    assert Images(2, path=root, classes=4).num_classes == 4
    assert Images(2, path=root, relabel=True).num_classes == 3


def test_labels_without_images_are_said(tmp_path):
    root = folder(tmp_path, ["0.png", "1.png"])
    labels(root / "dataset.json", [["0.png", 0], ["1.png", 4], ["2.png", 2], ["3.png", 3]])
    summary = Images(2, path=root).summary()
    assert all(
        words in summary for words in ("5 classes by dataset.json", "3 of them have no image", "2 labels of files")
    )


def test_a_damaged_label_file_or_image_in_a_zip_is_a_sentence(tmp_path):
    root = folder(tmp_path / "set", ["0.png", "1.png"])
    labels(root / "dataset.json", [["0.png", 0], ["1.png", 1]])
    whole = zipped(root, tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(whole.replace(b'{"labels"', b'{"lables"', 1))
    with pytest.raises(UserError, match=r"b\.zip: dataset\.json .*damaged"):
        Images(2, path=tmp_path / "b.zip").setup()
    pixels = (root / "1.png").read_bytes()[60:80]
    (tmp_path / "c.zip").write_bytes(whole.replace(pixels, bytes(20), 1))
    with pytest.raises(UserError, match=r"c\.zip: 1 of 2 .*1\.png"):
        Images(2, path=tmp_path / "c.zip").setup()
    (tmp_path / "d.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"d\.zip"):
        Images(2, path=tmp_path / "d.zip").setup()
