import math
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_diff.data import Augment, Digits, MapDataset, Stream, loader
from lightning_diff.foundation.errors import UserError

BYTES = torch.randint(0, 256, (20, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IN_RANGE = BYTES.float() / 127.5 - 1
LABELS = [i % 4 for i in range(20)]


class Listed(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = list(items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


@pytest.mark.parametrize(
    "images",
    [
        BYTES,
        BYTES.numpy(),
        BYTES.permute(0, 2, 3, 1).numpy(),
        [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in BYTES],
        IN_RANGE,
        IN_RANGE.double().permute(0, 2, 3, 1).numpy(),
    ],
    ids=["bytes", "array", "channels last", "PIL", "floats", "doubles channels last"],
)
def test_all_ways_to_hold_an_image_are_the_same_image(images):
    data = MapDataset(4, dataset=Listed(zip(images, LABELS, strict=True)))
    assert (data.shape, data.num_classes, data.test) == ((3, 6, 8), 4, None)
    assert torch.allclose(data.train.images(torch.arange(20)), IN_RANGE, atol=1e-6)
    assert data.train.label(np.array([3, 6])).tolist() == [3, 2]
    assert data.sigma_data == pytest.approx(float(IN_RANGE.std()), rel=1e-3)


def test_items_may_be_mappings_tuples_or_bare_images():
    renamed = Listed([{"img": x, "y": torch.tensor(y)} for x, y in zip(BYTES, LABELS, strict=True)])
    data = MapDataset(4, dataset=renamed, image_key="img", label_key="y")
    assert data.train.label(torch.arange(20)).tolist() == LABELS
    for bare in (Listed(BYTES), Listed([(x,) for x in BYTES]), Listed([{"image": x} for x in BYTES])):
        unlabelled = MapDataset(4, dataset=bare)
        assert unlabelled.num_classes == 0
        assert torch.equal(unlabelled.train.images(torch.arange(20)), data.train.images(torch.arange(20)))


def test_grey_images_and_vectors():
    assert MapDataset(4, dataset=Listed(BYTES[:, 0])).shape == (1, 6, 8)
    points = torch.randn(20, 2) * 5
    data = MapDataset(4, dataset=Listed(points), value_range=None)
    assert torch.equal(data.train.images(torch.arange(20)), points)


def test_bright_bytes_are_taken_as_they_are():
    bright = BYTES // 4 + 190
    data = MapDataset(4, dataset=Listed(bright))
    assert torch.allclose(data.train.images(torch.arange(20)), bright / 127.5 - 1, atol=1e-6)


def test_other_ranges_are_mapped_to_minus_one_and_one():
    data = MapDataset(4, dataset=Listed(BYTES.float() / 255), value_range=(0, 1))
    assert torch.allclose(data.train.images(torch.arange(20)), IN_RANGE, atol=1e-6)


def test_a_stream_of_items_is_a_stream_of_images_in_memory():
    digits = Digits(32, flip=True, augment=Augment())
    items = Listed(zip(digits.train.pixels, digits.train.labels, strict=True))
    lazy = MapDataset(32, dataset=items, flip=True, augment=Augment(), workers=2)
    expected = Stream(digits, seed=5)
    for k, batch in enumerate(islice(loader(lazy, seed=5), 3)):
        there = expected.__getitems__(range(32 * k, 32 * k + 32))
        assert all(torch.equal(batch[key], there[key]) for key in there)


def test_few_items_tell_the_facts_and_the_rest_is_checked_when_read():
    items = [(x, 0) for x in BYTES]
    items[7] = (BYTES[7], 9)
    data = MapDataset(4, dataset=Listed(items), look_at=3)
    data.setup()
    with pytest.raises(UserError, match=r"label 9.*item 7.*classes"):
        data.train.take(np.array([6, 7]))
    assert MapDataset(4, dataset=Listed(items), look_at=3, classes=10).train.label(np.array([7])).tolist() == [9]


def test_the_fingerprint_follows_content_and_length():
    other = BYTES.clone()
    other[0, 0, 0, 0] ^= 1
    prints = [MapDataset(4, dataset=Listed(x)).fingerprint for x in (BYTES, other, BYTES[:19], BYTES.clone())]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3


def test_randomness_inside_a_dataset_is_pointed_out():
    class Jittered(Listed):
        def __getitem__(self, i):
            return self.items[i] + 0.001 * torch.rand(())

    with pytest.warns(UserWarning, match=r"Jittered.*item 0"):
        MapDataset(4, dataset=Jittered(IN_RANGE)).setup()


def changed(i, item):
    items = list(zip(BYTES, LABELS, strict=True))
    items[i] = item
    return items


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([], {}, "no images"),
        (changed(5, (torch.full((3, 6, 8), math.nan), 0)), {}, "image 5 holds NaN"),
        (changed(5, (BYTES[5].float(), 0)), {}, r"image 5 .* 25.* value_range \(-1, 1\)"),
        (changed(5, (BYTES[5].long(), 0)), {}, "image 5 is int64.*white"),
        (changed(5, (BYTES[5, :, :4], 0)), {}, r"image 5 is \(3, 4, 8\), image 0 is \(3, 6, 8\)"),
        (changed(5, (BYTES[5], -1)), {}, "label -1 of item 5"),
        (changed(5, (BYTES[5], 0.5)), {}, "label 0.5 of item 5"),
        (changed(5, BYTES[5]), {}, "item 5 has no label"),
        (changed(5, (BYTES[5], 4)), {"classes": 4}, r"label 4.* 0\.\.3"),
        (BYTES.float() / 255, {}, r"20 items .*value_range \(-1, 1\).* \(0, 1\)"),
        ([{"picture": x} for x in BYTES], {}, "item 0 .*'image'.* picture"),
    ],
)
def test_what_is_wrong_with_an_item_is_said_with_its_index(items, options, message):
    with pytest.raises(UserError, match=message):
        MapDataset(4, dataset=Listed(items), **options).setup()


def test_grey_items_among_colours_are_colours_wherever_they_stand():
    for where in (0, 5, 19):
        items = list(BYTES)
        items[where] = BYTES[where, :1]
        for look_at in (1, 3, 20):
            if where == 0 and look_at == 1:
                continue
            data = MapDataset(4, dataset=Listed(items), look_at=look_at)
            assert data.shape == (3, 6, 8)
            grey, colour = data.train.images(np.array([where, 7]))
            assert torch.equal(grey, IN_RANGE[where, :1].expand(3, -1, -1))
            assert torch.equal(colour, IN_RANGE[7])


def test_a_colour_among_grey_items_that_nobody_looked_at_names_the_option():
    items = list(BYTES[:, :1])
    items[5] = BYTES[5]
    data = MapDataset(4, dataset=Listed(items), look_at=2)
    data.setup()
    with pytest.raises(UserError, match=r"image 5 .*channels to 3"):
        data.train.take(np.array([4, 5]))
    assert MapDataset(4, dataset=Listed(items), look_at=2, channels=3).train.take(np.array([5]))[0].shape == (
        1,
        3,
        6,
        8,
    )


def test_an_item_that_cannot_be_read_is_named_and_its_error_kept():
    class Broken(Listed):
        def __getitem__(self, i):
            if i == 5:
                raise OSError("image file is truncated")
            return super().__getitem__(i)

    with pytest.raises(UserError, match=r"Broken: item 5 .*OSError: image file is truncated") as caught:
        MapDataset(4, dataset=Broken(BYTES)).setup()
    assert isinstance(caught.value.__cause__, OSError)


def test_labels_that_are_ids_or_count_from_one():
    ids = Listed([(x, 10**9 + i) for i, x in enumerate(BYTES)])
    with pytest.raises(UserError, match=r"1,000,000,019.* ids"):
        MapDataset(4, dataset=ids).setup()
    from_one = Listed([(x, 1 + i % 3) for i, x in enumerate(BYTES)])
    with pytest.warns(UserWarning, match="class 0 of 4 has no image"):
        assert MapDataset(4, dataset=from_one).num_classes == 4
    assert MapDataset(4, dataset=from_one, classes=4).num_classes == 4


def test_arrays_of_any_strides_and_byte_order():
    for change in (lambda x: x[..., ::-1], lambda x: x.astype(">f4"), lambda x: x.astype(np.float16)):
        given = [change(x) for x in IN_RANGE.numpy()]
        assert torch.allclose(
            MapDataset(4, dataset=Listed(given)).train.images(np.arange(20)),
            torch.from_numpy(np.stack(given).astype(np.float32)),
        )


def test_the_line_says_what_was_looked_at():
    data = MapDataset(4, dataset=Listed(zip(BYTES, LABELS, strict=True)), look_at=6)
    summary = data.summary()
    assert all(words in summary for words in ("20 images of 8x6, RGB from Listed", "4 classes", "6 of them"))
    dark = MapDataset(4, dataset=Listed(BYTES // 255)).summary()
    assert "nearly black" in dark


def test_a_held_out_dataset_shares_the_classes():
    train = Listed(zip(BYTES, LABELS, strict=True))
    data = MapDataset(4, dataset=train, test_dataset=Listed([(BYTES[0], 1)]))
    assert (len(data.test), data.test.num_classes) == (1, 4)
    with pytest.raises(UserError, match="label 4"):
        MapDataset(4, dataset=train, test_dataset=Listed([(BYTES[0], 4)])).setup()


def test_options_are_checked():
    with pytest.raises(ValueError, match="__len__"):
        MapDataset(4, dataset=iter([]))
    with pytest.raises(ValueError, match="value_range"):
        MapDataset(4, dataset=[], value_range=(1, 0))


def test_animated_items_are_their_first_frame_and_said(tmp_path):
    first, second = (Image.fromarray(x.permute(1, 2, 0).numpy()) for x in BYTES[:2])
    first.save(tmp_path / "a.webp", lossless=True, save_all=True, append_images=[second])
    data = MapDataset(1, dataset=Listed([Image.open(tmp_path / "a.webp"), BYTES[2]]))
    assert torch.equal(data.train.images(np.array([0]))[0], IN_RANGE[0])
    assert "the first frame of item 0" in data.summary()


def test_a_mapping_of_splits_says_which_there_are():
    class DatasetDict(dict):
        pass

    splits = DatasetDict(train=Listed(BYTES), validation=Listed(BYTES))
    for given in ({"dataset": splits}, {"dataset": Listed(BYTES), "test_dataset": splits}):
        with pytest.raises(ValueError, match=r"DatasetDict.*train, validation"):
            MapDataset(4, **given)


def test_an_undecoded_image_may_be_a_file(tmp_path):
    Image.fromarray(BYTES[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    items = [{"image": {"bytes": None, "path": str(tmp_path / "a.png")}}]
    data = MapDataset(1, dataset=Listed(items * 2))
    assert torch.equal(data.train.images(np.arange(1))[0], IN_RANGE[0])
    items[0]["image"]["path"] = str(tmp_path / "nothere.png")
    with pytest.raises(UserError, match=r"image 0 cannot be read.*nothere\.png"):
        MapDataset(1, dataset=Listed(items * 2)).setup()
