"""Laws of the written files: pixels come back as they were, files are whole or absent, errors are sentences."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_diff.artifacts import pictures
from lightning_diff.foundation.errors import UserError


def images(n, c, h, w):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(0)) * 2 - 1


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_bytes_come_back():
    """to_uint8 undoes uint8 / 127.5 - 1 for every byte, and rounds to the nearest."""
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pictures.to_uint8(every / 127.5 - 1), every)
    x = torch.linspace(-1, 1, 10_001)
    assert (pictures.to_uint8(x) / 127.5 - 1 - x).abs().max() <= 0.5 / 127.5 + 1e-6


def test_out_of_range_is_clipped():
    assert pictures.to_uint8(torch.tensor([-9.0, -1.01, 1.01, 9.0, torch.inf])).tolist() == [0, 0, 255, 255, 255]


def test_nan_is_refused():
    with pytest.raises(UserError, match="NaN"):
        pictures.to_uint8(torch.tensor([0.0, torch.nan]))


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_shows_every_image(tmp_path, channels):
    """Each tile is its image with every pixel scale x scale, in reading order; the rest is separator."""
    pixels = images(5, channels, 8, 6)
    pictures.save_grid(tmp_path / "grid.png", pixels, columns=3, scale=4)
    grid = read(tmp_path / "grid.png")
    assert grid.shape == (1 + 2 * 33, 1 + 3 * 25, 3)
    shown = pictures.to_uint8(pixels).permute(0, 2, 3, 1).expand(5, 8, 6, 3).numpy()
    for i in range(5):
        top, left = 1 + i // 3 * 33, 1 + i % 3 * 25
        tile = grid[top : top + 32, left : left + 24]
        assert (tile == shown[i].repeat(4, 0).repeat(4, 1)).all()
    assert (grid[34:66, 51:75] == pictures.SEPARATOR).all()
    assert (grid[0] == pictures.SEPARATOR).all()


@pytest.mark.parametrize(("size", "tile"), [(8, 64), (28, 84), (32, 64), (64, 64), (256, 256)])
def test_small_images_are_enlarged(tmp_path, size, tile):
    pictures.save_grid(tmp_path / "grid.png", images(1, 1, size, size))
    line = max(1, tile // 16)
    assert read(tmp_path / "grid.png").shape == (tile + 2 * line, tile + 2 * line, 3)


def test_captions_stand_beside_the_images(tmp_path):
    pixels = images(6, 1, 8, 8)
    pictures.save_grid(tmp_path / "plain.png", pixels, columns=3)
    pictures.save_grid(
        tmp_path / "named.png", pixels, columns=3, row_names=["cat", "dog"], column_names=["a", "b", "c"]
    )
    plain, named = read(tmp_path / "plain.png"), read(tmp_path / "named.png")
    height, width = plain.shape[:2]
    assert (named[-height:, -width:] == plain).all()
    margin = named[-height:, :-width]
    assert (margin[: height // 2] < 128).any()
    assert (margin[height // 2 :] < 128).any()
    assert (named[:-height, -width:] < 128).any()


def test_prompts_stand_below_each_image_or_once_below_a_column(tmp_path):
    pixels, long = images(4, 1, 8, 8), "a very long prompt of many words " * 9
    for name, captions in (("once", ["a cat", long] * 2), ("each", ["a cat", long, "a dog", "x"])):
        pictures.save_grid(tmp_path / f"{name}.png", pixels, columns=2, captions=captions)
    once, each = read(tmp_path / "once.png"), read(tmp_path / "each.png")
    line = 96 // 16
    assert once.shape[1] == each.shape[1] == 2 * 96 + 3 * line  # wide enough for some words, however long they are
    room = once.shape[0] - (2 * 96 + 3 * line)
    assert room == 4 * 12 + 6
    assert each.shape[0] == once.shape[0] + room
    for left in (line, 2 * line + 96):
        below = once[-room - line : -line, left : left + 96]
        assert (below > 200).mean() > 0.5
        assert (below < 128).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_folder(tmp_path, channels):
    pixels = images(3, channels, 8, 8)
    pictures.save_folder(tmp_path / "out", pixels, numbers=[0, 41, 1234567])
    assert sorted(os.listdir(tmp_path / "out")) == ["000000.png", "000041.png", "1234567.png"]
    expected = pictures.to_uint8(pixels).permute(0, 2, 3, 1).numpy()
    assert (read(tmp_path / "out" / "000041.png").reshape(8, 8, channels) == expected[1]).all()


def test_npz(tmp_path):
    pixels, labels = images(3, 3, 8, 8), torch.tensor([2, 0, 1])
    pictures.save_npz(tmp_path / "samples.npz", pixels, labels)
    with np.load(tmp_path / "samples.npz") as file:
        assert file["arr_0"].dtype == np.uint8
        assert (file["arr_0"] == pictures.to_uint8(pixels).permute(0, 2, 3, 1).numpy()).all()
        assert file["arr_1"].tolist() == [2, 0, 1]


def test_npz_keeps_points(tmp_path):
    points = torch.randn(7, 2)
    pictures.save_npz(tmp_path / "points.npz", points)
    with np.load(tmp_path / "points.npz") as file:
        assert (file["arr_0"] == points.numpy()).all()
        assert file.files == ["arr_0"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    pictures.save_grid(path, images(1, 1, 8, 8))
    before = path.read_bytes()

    def full(self, file, *args, **kwargs):
        file.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"grid\.png: .*No space left"):
        pictures.save_grid(path, images(2, 1, 8, 8))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["grid.png"]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    for write in (
        lambda: pictures.save_folder(tmp_path / "taken", images(1, 1, 8, 8)),
        lambda: pictures.save_grid(tmp_path / "taken" / "grid.png", images(1, 1, 8, 8)),
        lambda: pictures.save_npz(tmp_path / "taken" / "samples.npz", images(1, 1, 8, 8)),
    ):
        with pytest.raises(UserError, match="Cannot write"):
            write()


def test_bad_arguments_are_named(tmp_path):
    for make, word in (
        (lambda: pictures.save_grid(tmp_path / "a.png", images(0, 1, 8, 8)), "no image"),
        (lambda: pictures.save_grid(tmp_path / "a.png", images(1, 1, 8, 8), columns=0), "columns"),
        (lambda: pictures.save_grid(tmp_path / "a.png", images(1, 4, 8, 8)), "4 channels"),
        (lambda: pictures.save_folder(tmp_path, images(2, 2, 8, 8)), "2 channels"),
    ):
        with pytest.raises(ValueError, match=word):
            make()
    assert os.listdir(tmp_path) == []
