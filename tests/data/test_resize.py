import numpy as np
import pytest
from PIL import Image

from lightning_diff.data.deep import ImageError
from lightning_diff.data.resize import Framing

HOW = ("centre_crop", "random_crop", "pad", "stretch")
FILTERS = ("area", "lanczos", "adm")


def picture(height, width, channels=3):
    """Smooth colours with noise on them."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9 + c) + np.cos(y / 7 - c) for c in range(channels)])
    return (127 + 40 * waves + rng.normal(0, 10, waves.shape)).clip(0, 255).astype(np.uint8)


def pil(x):
    return Image.fromarray(x.transpose(1, 2, 0))


def differences(ours, theirs):
    return np.abs(ours.transpose(1, 2, 0).astype(int) - np.asarray(theirs).astype(int)).max()


@pytest.mark.parametrize(("height", "width"), [(40, 61), (77, 33), (33, 33), (16, 90), (131, 67)])
def test_lanczos_is_the_square_of_edms_tool(height, width):
    x, side = picture(height, width), min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pil(x).crop((left, top, left + side, top + side))
    assert (
        differences(Framing(16, 16, filter="lanczos").apply(x), square.resize((16, 16), Image.Resampling.LANCZOS)) == 0
    )
    whole = pil(x).resize((16, 16), Image.Resampling.LANCZOS)
    assert differences(Framing(16, 16, "stretch", "lanczos").apply(x), whole) == 0


@pytest.mark.parametrize(("height", "width"), [(40, 61), (77, 33), (33, 33), (16, 90), (131, 67), (32, 71)])
def test_adm_halves_all_of_it_and_crops_at_the_end(height, width):
    x = picture(height, width)
    image = pil(x)
    while min(image.size) >= 32:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = 16 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 16) // 2, (image.height - 16) // 2
    ours = Framing(16, 16, filter="adm").apply(x)
    assert differences(ours, image.crop((left, top, left + 16, top + 16))) == 0


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("size", [(16, 16), (12, 20), (20, 12)])
def test_every_way_gives_that_size_for_bytes_and_floats(how, filter, size):
    framing = Framing(*size, how, filter)
    for x in (picture(50, 71), picture(71, 50), picture(*size), picture(40, 40, 1)):
        part = framing.crop(framing.apply(x))
        assert part.shape == (len(x), *size)
        assert part.dtype == np.uint8
        values = framing.crop(framing.apply(x.astype(np.float32) / 127.5 - 1))
        assert values.dtype == np.float32
        assert np.abs((values.clip(-1, 1) + 1) * 127.5 - part).max() <= 3  # of several roundings to bytes


@pytest.mark.parametrize("filter", FILTERS)
def test_what_has_the_size_already_stays(filter):
    x = picture(16, 16)
    for how in HOW:
        assert np.array_equal(Framing(16, 16, how, filter).apply(x), x)


def test_padding_keeps_the_shape_of_the_picture_on_black():
    x = np.full((3, 10, 40), 200, np.uint8)
    out = Framing(16, 20, "pad").apply(x)
    assert not out[:, :5].any()
    assert not out[:, 10:].any()
    assert (out[:, 5:10] == 200).all()
    small = Framing(16, 20, "pad").apply(x[:, :4, :6])
    assert (small == 200).sum() == 3 * 4 * 6
    assert (Framing(16, 24, "pad", enlarge=True).apply(x[:, :4, :6]) == 200).all()
    assert (Framing(16, 20, "pad").apply(np.ones((1, 10, 40), np.float32))[:, :5] == -1).all()


def test_random_crops_reach_every_place_and_no_further():
    framing = Framing(4, 4, "random_crop")
    x = np.arange(40, dtype=np.uint8).reshape(1, 4, 10)
    corners = {int(framing.crop(framing.apply(x), 0.5, right)[0, 0, 0]) for right in np.linspace(1e-9, 1 - 1e-9, 50)}
    assert corners == set(range(7))
    assert framing.crop(x)[0, 0, 0] == 3
    assert Framing(4, 4, "random_crop", cover=8).apply(picture(16, 20)).shape == (3, 8, 10)


@pytest.mark.parametrize("how", ["centre_crop", "random_crop", "stretch"])
def test_small_images_are_refused_unless_they_may_be_enlarged(how):
    with pytest.raises(ImageError, match=r"9x20 .*size=\[8, 12\]"):
        Framing(8, 12, how).apply(picture(20, 9))
    for filter in FILTERS:
        framing = Framing(8, 12, how, filter, enlarge=True)
        assert framing.crop(framing.apply(picture(20, 9))).shape == (3, 8, 12)
