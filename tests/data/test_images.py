import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_diff.data import Images
from lightning_diff.foundation.errors import UserError


def picture(i, size=(8, 6), channels=3):
    """Byte noise (H, W[, 3]) for a (width, height); another for every i."""
    shape = (size[1], size[0], 3) if channels == 3 else (size[1], size[0])
    return np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)


def save(path, i=0, size=(8, 6), channels=3, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, picture(i, size, channels))
    else:
        Image.fromarray(picture(i, size, channels)).save(path, **options)
    return path


def folder(root, names, **options):
    for i, name in enumerate(names):
        save(root / name, i, **options)
    return root


def label_file(root, labels):
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))


def pixels(i):
    return torch.from_numpy(picture(i)).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".npy"])
def test_pixels_are_those_of_the_files_in_the_order_of_their_names(tmp_path, suffix):
    save(tmp_path / f"b/2{suffix}", 2)
    save(tmp_path / f"a{suffix}", 1)
    (tmp_path / "notes.txt").write_text("no image")
    save(tmp_path / f".hidden/3{suffix}", 3)
    data = Images(2, path=tmp_path)
    assert torch.equal(data.train.pixels, torch.stack([pixels(1), pixels(2)]))
    assert (data.shape, data.num_classes, data.test) == ((3, 6, 8), 0, None)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_files_are_close(tmp_path, suffix):
    smooth = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)
    for name in "ab":
        Image.fromarray(smooth).convert("RGB").save(tmp_path / f"{name}{suffix}", quality=95)
    decoded = Images(2, path=tmp_path).train.pixels
    assert (decoded.float() - torch.from_numpy(smooth).float()).abs().max() < 16


def zipped(root, target):
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root).as_posix())
    return target


def test_a_zip_in_edm_layout_is_its_folder(tmp_path):
    names = [f"{i // 2:05d}/img{i:08d}.png" for i in range(6)]
    root = folder(tmp_path / "set", names)
    label_file(root, [[name, 5 - i] for i, name in enumerate(names)])
    here, there = Images(2, path=root), Images(2, path=zipped(root, tmp_path / "set.zip"))
    assert here.train.labels.tolist() == there.train.labels.tolist() == [5, 4, 3, 2, 1, 0]
    assert here.fingerprint == there.fingerprint
    assert there.num_classes == 6


def test_numbered_folders_of_edm_are_no_classes(tmp_path):
    root = folder(tmp_path, [f"{i:05d}/img{i:08d}.png" for i in range(4)])
    assert Images(2, path=root).num_classes == 0
    label_file(root, None)
    assert Images(2, path=root).num_classes == 0


def test_folders_are_classes_below_what_all_share(tmp_path):
    root = folder(tmp_path, ["set/dog/1.png", "set/cat/x/2.png", "set/cat/3.png", "set/emu/4.png"])
    data = Images(2, path=root)
    assert data.num_classes == 3
    assert data.train.labels.tolist() == [0, 0, 1, 2]
    assert Images(2, path=root, conditional=False).num_classes == 0
    assert Images(2, path=folder(tmp_path / "more", ["a/1.png", "b/2.png", "3.png"])).num_classes == 0


def test_a_null_in_the_label_file_overrules_folders(tmp_path):
    root = folder(tmp_path, ["cat/1.png", "dog/2.png"])
    label_file(root, None)
    assert Images(2, path=root).num_classes == 0


def test_grey_stays_grey_and_one_coloured_image_makes_all_rgb(tmp_path):
    root = folder(tmp_path, ["a.png", "b.png"], channels=1)
    assert Images(2, path=root).shape == (1, 6, 8)
    save(root / "c.png", 7)
    train = Images(2, path=root).train
    assert train.shape == (3, 6, 8)
    assert torch.equal(train.pixels[0], torch.from_numpy(picture(0, channels=1)).expand(3, -1, -1))


def test_transparent_pixels_are_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = [10, 20, 30, 255]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    save(tmp_path / "b.png", size=(2, 2))
    first = Images(2, path=tmp_path).train.pixels[0]
    assert first[:, 0, 0].tolist() == [10, 20, 30]
    assert (first.flatten(1)[:, 1:] == 255).all()


def test_shrinking_averages_the_central_square(tmp_path):
    save(tmp_path / "wide.png", 0, size=(12, 8))
    save(tmp_path / "square.png", 1, size=(8, 8))
    data = Images(2, path=tmp_path, size=4)
    wide, square = (torch.from_numpy(picture(i, size)).permute(2, 0, 1) for i, size in ((0, (12, 8)), (1, (8, 8))))
    averaged = torch.nn.functional.avg_pool2d(torch.stack([square, wide[:, :, 2:10]]).float(), 2)
    assert (data.train.pixels.float() - averaged).abs().max() <= 1  # rounded along each axis


def test_a_fraction_is_held_out_by_name(tmp_path):
    root = folder(tmp_path, [f"{i}.png" for i in range(60)])
    data = Images(2, path=root, test_fraction=0.25)
    train, test = ({p.numpy().tobytes() for p in s.pixels} for s in (data.train, data.test))
    assert len(train) + len(test) == 60
    assert not train & test
    assert 5 <= len(test) <= 25
    for i in range(60, 80):
        save(root / f"{i}.png", i)
    grown = Images(2, path=root, test_fraction=0.25)
    assert train <= {p.numpy().tobytes() for p in grown.train.pixels}
    assert test <= {p.numpy().tobytes() for p in grown.test.pixels}


def test_a_limit_is_a_fixed_choice_that_keeps_the_classes_and_the_held_out_set(tmp_path):
    names = [f"{i}.png" for i in range(30)]
    root = folder(tmp_path, names)
    label_file(root, [[name, i] for i, name in enumerate(names)])
    whole, some, fewer = (Images(2, path=root, test_fraction=0.2, limit=limit) for limit in (None, 8, 4))
    assert set(fewer.train.labels.tolist()) < set(some.train.labels.tolist()) < set(whole.train.labels.tolist())
    assert (len(fewer.train), len(some.train)) == (4, 8)
    assert fewer.test.labels.tolist() == whole.test.labels.tolist()
    assert fewer.num_classes == whole.num_classes == 30
    for label, image in zip(some.train.labels.tolist(), some.train.pixels, strict=True):
        assert torch.equal(image, pixels(label))


def test_a_test_folder_shares_the_training_classes(tmp_path):
    train = folder(tmp_path / "train", ["cat/1.png", "dog/2.png", "emu/3.png"])
    data = Images(2, path=train, test_path=folder(tmp_path / "test", ["dog/1.png", "emu/2.png"]))
    assert data.test.labels.tolist() == [1, 2]
    wrong = Images(2, path=train, test_path=folder(tmp_path / "wrong", ["dog/1.png", "gnu/2.png"]))
    with pytest.raises(UserError, match=r"gnu.*cat, dog, emu"):
        wrong.setup()


def broken_files(root):
    folder(root, ["good.png"])
    for i in range(7):
        (root / f"bad{i}.png").write_bytes(b"not a picture")


def truncated(root):
    folder(root, ["good.png", "short.png"])
    (root / "short.png").write_bytes((root / "short.png").read_bytes()[:60])


def mixed(root):
    folder(root, ["a.png", "b.png", "c.png"])
    save(root / "d.png", size=(4, 4))


def small(root):
    folder(root, ["a.png", "b.png"], size=(20, 20))
    save(root / "c.png", size=(4, 9))


def whole_numbers(root):
    folder(root, ["a.png"])
    Image.fromarray(np.full((6, 8), 1000, np.int32)).save(root / "b.tif")


def labelled(*labels):
    def build(root):
        folder(root, ["a.png", "b.png"])
        label_file(root, labels)

    return build


def two_label_files(root):
    for name in "ab":
        label_file(folder(root / name, ["1.png"]), [["1.png", 0]])


def not_json(root):
    folder(root, ["a.png"])
    (root / "dataset.json").write_text("{")


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (broken_files, {}, r"7 of 8 images .*: bad0.png \(.*\), bad1.*, bad4.png \([^)]*\) .*2 more"),
        (truncated, {}, r"1 of 2 images .*: short.png \("),
        (mixed, {}, r"size.* 3 of 8x6 .*a.png, 1 of 4x4 .*d.png"),
        (small, {"size": 8}, r"c.png \(4x9 .*size=8\)"),
        (whole_numbers, {}, r"b.tif \(.*int32.*white"),
        (lambda root: np.save(root / "a.npy", np.zeros((4, 4))), {}, r"value_range \(-1, 1\)"),
        (lambda root: np.save(root / "a.npy", np.zeros(4)), {}, r"a.npy \(.*shape \(4,\)"),
        (lambda root: (root / "a.png").write_bytes(b""), {}, r"a.png \(is empty"),
        (lambda root: (root / "a.tga").write_bytes(b"x"), {}, r"no images .*1 \.tga"),
        (labelled(["a.png", 0], ["b.png", 1], ["a.png", 1]), {}, "two labels for a.png"),
        (labelled(["a.png", 0], ["b.png", 10**30]), {}, r"dataset\.json.* ids.*relabel"),
        (labelled(["a.png", 0], ["b.png", 3]), {"classes": 3}, r"label 3.* 0\.\.2"),
        (lambda root: folder(root, ["a/1.png", "b/2.png", "3.png"]), {"labels": "folders"}, "folders .*no classes"),
        (lambda root: folder(root, ["a/1.png", "b/2.png"]), {"labels": "file"}, r"dataset\.json"),
        (two_label_files, {}, r"a/dataset\.json and 1 more .*path .*labels"),
        (lambda root: None, {}, "holds no images"),
        (labelled(["a.png", 0]), {}, "no label .*b.png"),
        (labelled(["a.png", 0], ["b.png", [0.5, 0.5]]), {}, r"neither .*: b.png \(\[0.5, 0.5\]\); .*one class"),
        (labelled(["a.png", -1], ["b.png", 1.5]), {}, r"a.png \(-1\), b.png \(1.5\)"),
        (labelled(["a.png", 2.0], ["b.png", 1]), {}, r"a.png \(2.0\); .*decimal point"),
        (labelled(["a.png", 2], ["b.png", None]), {}, r"b.png \(null\); .*class"),
        (labelled(["a.png", "cat"], ["b.png", None]), {}, r"b.png \(null\)"),
        (labelled(["a.png", "cat"], ["b.png", ""]), {}, r"b.png \(''\)"),
        (labelled(["a.png", True], ["b.png", 1]), {}, r"a.png \(True\)"),
        (labelled(["a.png", ["cat", "dog"]], ["b.png", "cat"]), {}, r"a.png \(\['cat', 'dog'\]\); .*one class"),
        (labelled(["a.png", "cat"], ["b.png", 1]), {}, r"numbers and names .*b.png \(1\) and a.png \('cat'\)"),
        (labelled(["a.png", 0, 1]), {}, r"dataset.json.* form"),
        (labelled("ab", "cd"), {}, r"dataset.json.* form"),
        (labelled("a.png", "b.png"), {}, r"dataset.json.* form"),
        (not_json, {}, r"dataset.json.* form"),
        (lambda root: folder(root, ["a.png"]), {"test_fraction": 0.9999999}, "no image to train"),
    ],
)
def test_what_is_wrong_with_the_files_is_said_with_their_names(tmp_path, build, options, message):
    build(tmp_path)
    with pytest.raises(UserError, match=message):
        Images(2, path=tmp_path, **options).setup()


def test_a_path_that_is_nothing_or_no_zip_is_named(tmp_path):
    with pytest.raises(UserError, match="missing"):
        Images(2, path=tmp_path / "missing").setup()
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"a\.zip"):
        Images(2, path=str(tmp_path / "a.zip")).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"test_fraction": 0.1, "test_path": "x"}, "not both"),
        ({"limit": 0}, "limit"),
        ({"size": 0}, "size"),
        ({"white": 0}, "white"),
        ({"channels": 0}, "channels"),
        ({"classes": -1}, "classes"),
        ({"value_range": (1, 0)}, "value_range"),
    ],
)
def test_options_are_checked_before_anything_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        Images(2, path="nowhere", **options)


def test_the_line_says_what_was_changed(tmp_path):
    root = folder(tmp_path / "train", ["a.png", "b.png"])
    save(root / "c.png", 3, channels=1)
    summary = Images(2, path=root).summary()
    assert all(words in summary for words in ("3 images of 8x6, RGB from", "no labels", "1 of them grey, made RGB"))
    assert str(root) in summary
    grey = folder(tmp_path / "grey", ["a.png", "b.png"], channels=1)
    summary = Images(2, path=grey, test_path=root).summary()
    assert all(words in summary for words in ("2 images of 8x6, grey", "3 held out", "2 of them coloured, made grey"))
    Image.fromarray(picture(0)).save(root / "d.gif", save_all=True, append_images=[Image.fromarray(picture(1))])
    assert "the first frame of d.gif" in Images(2, path=root).summary()


def test_one_image_of_sixteen_bits_makes_floats_of_all(tmp_path):
    root = folder(tmp_path, ["a.png", "c.png"], channels=1)
    before = Images(2, path=root).train.images(np.array([0, 1]))
    words = np.random.default_rng(0).integers(0, 65536, (6, 8), dtype=np.uint16)
    Image.fromarray(words).save(root / "b.png")
    after = Images(2, path=root).train
    assert after.pixels.dtype == torch.float32
    assert torch.equal(after.images(np.array([0, 2])), before)
    shrunk = Images(2, path=root, size=3).train.pixels[1, 0]
    exact = torch.nn.functional.avg_pool2d(torch.from_numpy(words / 32767.5 - 1)[None, :, 1:7], 2)[0]
    assert torch.allclose(shrunk.double(), exact, atol=1e-6)
