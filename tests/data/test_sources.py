import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lightning_diff.data import Augment, Data, Digits, ImageSet
from lightning_diff.foundation.errors import UserError


@dataclass(eq=False)
class Given(Data):
    sets: tuple = ()

    def load(self):
        return self.sets


def images(n=4, shape=(1, 4, 4)):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_bytes_span_minus_one_to_one_and_floats_stay():
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(ImageSet(ramp).images(np.array([0])).flatten(), torch.arange(256) / 127.5 - 1)
    points = torch.randn(5, 2)
    assert torch.equal(ImageSet(points).images(torch.tensor([3, 1])), points[[3, 1]])


def test_the_standard_deviation_is_that_of_the_values():
    pixels = images(50)
    exact = float(ImageSet(pixels).images(torch.arange(50)).double().std(correction=0))
    assert ImageSet(pixels).std() == pytest.approx(exact, rel=1e-6)
    assert ImageSet(pixels.float() / 127.5 - 1).std() == pytest.approx(exact, rel=1e-6)


def test_sigma_data_does_not_depend_on_the_order_of_the_images():
    pixels = images(50)
    one, other = (Given(2, sets=(ImageSet(p), None)) for p in (pixels, pixels.flip(0)))
    assert one.sigma_data == other.sigma_data


def test_the_fingerprint_tells_pixels_labels_and_order_apart():
    pixels, labels = images(4), torch.tensor([0, 1, 2, 1])
    sets = [
        ImageSet(pixels, labels),
        ImageSet(pixels),
        ImageSet(pixels.flip(0), labels),
        ImageSet(pixels, labels.flip(0)),
        ImageSet(pixels.reshape(4, 1, 2, 8), labels),
    ]
    prints = [s.fingerprint() for s in sets]
    assert len(set(prints)) == len(prints)
    assert ImageSet(pixels.clone(), labels.clone(), "another name").fingerprint() == prints[0]


def test_digits_are_split_by_class_without_overlap():
    data = Digits(8)
    train, test = data.train, data.test
    assert (len(train), len(test), data.shape, data.num_classes) == (1297, 500, (1, 8, 8), 10)
    assert data.sigma_data == pytest.approx(0.752, abs=0.003)
    shares = torch.bincount(test.labels) / (torch.bincount(test.labels) + torch.bincount(train.labels))
    assert (shares - 500 / 1797).abs().max() < 0.006  # one image of a class of 174
    assert train.images(torch.arange(1297)).aminmax() == (-1, 1)
    assert not {x.numpy().tobytes() for x in train.pixels} & {x.numpy().tobytes() for x in test.pixels}


def test_enlarged_digits_are_the_same_digits():
    small, large = Digits(8), Digits(8, size=16)
    assert large.shape == (1, 16, 16)
    assert torch.equal(small.test.labels, large.test.labels)
    i = torch.arange(500)
    pooled = torch.nn.functional.avg_pool2d(large.test.images(i), 2)
    assert torch.corrcoef(torch.stack([pooled.flatten(), small.test.images(i).flatten()]))[0, 1] > 0.9


def test_building_a_source_reads_nothing_and_setup_reads_once():
    class Counting(Data):
        loads = 0

        def load(self):
            self.loads += 1
            return ImageSet(images()), None

    data = Counting(4)
    assert data.loads == 0
    data.setup()
    data.setup()
    assert data.train is data.train
    assert data.loads == 1
    assert data.facts() == {
        "shape": (1, 4, 4),
        "num_classes": 0,
        "class_names": (),
        "sigma_data": data.sigma_data,
        "augment_dim": 0,
        "condition_shapes": {},
    }
    assert Counting(4, augment=Augment()).facts()["augment_dim"] == 9


def label(*values):
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: (ImageSet(images(0)), None), "no images"),
        (lambda: (ImageSet(torch.tensor([[0.0, 1.0], [0.0, math.nan]])), None), "image 1 holds NaN"),
        (lambda: (ImageSet(images(2), label(0, -1)), None), "label -1 of image 1"),
        (lambda: (ImageSet(images(3), label(0, 1, 5), num_classes=2), None), r"label 5 of image 2 .*0\.\.1"),
        (lambda: (ImageSet(images(2)), ImageSet(images(2, (3, 4, 4)))), r"training images are \(1, 4, 4\)"),
        (lambda: (ImageSet(images(2), label(0, 1)), ImageSet(images(2))), "test images .*none"),
        (lambda: (ImageSet(images(2), label(0, 1)), ImageSet(images(2), label(0, 2))), "test images have 3 classes"),
        (lambda: (ImageSet(torch.ones(2, 1, 4, 4)), None), "values are equal"),
    ],
)
def test_what_is_wrong_with_the_images_is_said_at_setup(build, message):
    @dataclass(eq=False)
    class Broken(Data):
        def load(self):
            return build()

    with pytest.raises(UserError, match=message):
        Broken(2).setup()


def test_points_cannot_be_mirrored():
    with pytest.raises(UserError, match="flip"):
        Given(2, sets=(ImageSet(torch.randn(4, 2)), None), flip=True).setup()


def test_nonsense_options_are_refused_at_once():
    with pytest.raises(ValueError, match=r"Digits.*batch_size.*0"):
        Digits(0)
    with pytest.raises(ValueError, match="workers"):
        Digits(1, workers=-1)
