"""What each reward says of pictures whose reward is known, and what is said of rewards that misbehave."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_diff.foundation.errors import UserError
from lightning_diff.rewards import (
    Brightness,
    ClassLogProbability,
    Ink,
    JPEGCompressibility,
    ReferenceDistance,
    Reward,
    Sharpness,
    Symmetry,
    WeightedSum,
    name_of,
    needs_label,
    scored,
)

LABEL = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def images():
    return torch.rand(4, 1, 8, 8) * 2 - 1


def test_every_reward_gives_one_finite_number_for_each_image(images):
    def classifier(x):
        return x.flatten(1)[:, :3]

    rewards = [
        Brightness(), Brightness(0.1), Ink(), Ink(target=0.3), Symmetry(), Symmetry("horizontal"), Sharpness(),
        JPEGCompressibility(), ClassLogProbability(classifier), ReferenceDistance(images + 0.1),
        WeightedSum({"bright": Brightness(), "sharp": Sharpness()}), lambda x, label: x.mean((1, 2, 3)),
    ]  # fmt: skip
    for reward in rewards:
        assert isinstance(reward, Reward)
        values = scored(reward, images, LABEL)
        assert values.shape == (4,)
        assert values.dtype == torch.float32
        # no reward depends on what else is in the batch, but for a standardised sum
        if not isinstance(reward, WeightedSum):
            alone = torch.cat([scored(reward, images[i : i + 1], LABEL[i : i + 1]) for i in range(4)])
            assert torch.allclose(values, alone, atol=1e-6)


def test_brightness_and_ink_of_plain_pictures():
    plain = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    label = torch.zeros(3, dtype=torch.int64)
    assert Brightness()(plain, label).tolist() == [-1, 0, 1]
    assert Brightness(0.5)(plain, label).tolist() == [-1.5, -0.5, -0.5]
    assert Ink()(plain, label).tolist() == [0, 0.5, 1]
    assert Ink(background=1.0)(plain, label).tolist() == [1, 0.5, 0]
    assert Ink(target=0.5)(plain, label).tolist() == [-0.5, 0, -0.5]


def test_symmetry_is_one_for_symmetric_pictures_and_does_not_like_empty_ones(images):
    symmetric = images + images.flip(3)
    assert torch.allclose(Symmetry()(symmetric, LABEL), torch.ones(4))
    assert (Symmetry("horizontal")(symmetric, LABEL) < 1).all()
    assert torch.allclose(Symmetry()(0.1 * images + 0.3, LABEL), Symmetry()(images, LABEL), atol=1e-5)
    assert not Symmetry()(torch.full_like(images, 0.3), LABEL).any()
    noise = torch.randn(4, 1, 64, 64)
    assert torch.allclose(Symmetry()(noise, LABEL), torch.full((4,), 1 - 2**0.5), atol=0.03)  # the docstring's -0.4


def test_sharpness_falls_with_blur_and_ignores_slopes(images):
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    assert (Sharpness()(blurred, LABEL) < Sharpness()(images, LABEL)).all()
    slope = torch.linspace(-1, 1, 8).expand(4, 1, 8, 8)
    assert torch.allclose(Sharpness()(slope, LABEL), torch.zeros(4), atol=1e-10)
    assert torch.allclose(Sharpness()(2 * images, LABEL), 4 * Sharpness()(images, LABEL))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_counts_the_bytes_of_the_file(channels):
    images = torch.rand(2, channels, 16, 16) * 2 - 1
    images[0] = 0
    values = JPEGCompressibility(80)(images, LABEL[:2])
    for image, value in zip(images, values, strict=True):
        file = io.BytesIO()
        pixels = (127.5 * (image + 1)).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.squeeze(pixels)).save(file, "JPEG", quality=80)
        assert value.item() == pytest.approx(-len(file.getvalue()) / 1000)
    assert values[0] > values[1]
    assert torch.equal(JPEGCompressibility(80, -1)(images, LABEL[:2]), -values)


def test_class_log_probability_is_the_log_softmax_at_the_label(images):
    reward = ClassLogProbability(lambda x: x.flatten(1)[:, :5], temperature=2.0)
    expected = (images.flatten(1)[:, :5] / 2).softmax(1)[torch.arange(4), LABEL].log()
    assert torch.allclose(reward(images, LABEL), expected)
    with pytest.raises(ValueError, match=r"labels .*0\.\.4"):
        reward(images, LABEL + 3)


def test_reference_distance_by_brute_force(images):
    references, classes = torch.rand(12, 1, 8, 8), torch.arange(12) % 3
    everything = (images[:, None] - references).square().mean((2, 3, 4)).sqrt()
    nearest = everything.sort(1).values
    assert torch.allclose(ReferenceDistance(references)(images, LABEL), -nearest[:, 0], atol=1e-5)
    assert torch.allclose(ReferenceDistance(references, nearest=3)(images, LABEL), -nearest[:, :3].mean(1), atol=1e-5)
    of_class = torch.stack([everything[i][classes == label].min() for i, label in enumerate(LABEL)])
    assert torch.allclose(ReferenceDistance(references, classes)(images, LABEL), -of_class, atol=1e-5)

    def features(x):
        return x.mean((2, 3))

    by_features = ReferenceDistance(features(references), features=features)(images, LABEL)
    assert torch.allclose(by_features, -(features(images) - features(references).T).abs().min(1).values, atol=1e-5)
    assert torch.allclose(ReferenceDistance(images)(images, LABEL), torch.zeros(4), atol=1e-3)


def test_references_that_are_missing_are_named(images):
    with pytest.raises(ValueError, match=r"reference .*class 2"):
        ReferenceDistance(images, torch.tensor([0, 0, 1, 1]))(images, LABEL)
    with pytest.raises(ValueError, match=r"nearest .*1\.\.1"):
        ReferenceDistance(images, LABEL, nearest=2)
    with pytest.raises(ValueError, match=r"64 .*images 16"):
        ReferenceDistance(images)(images[..., :4, :4], LABEL)


def test_a_weighted_sum_does_not_know_its_rewards_units(images):
    parts = {"bright": Brightness(), "sharp": Sharpness()}
    metres = WeightedSum(parts, {"sharp": 0.5}, "batch")(images, LABEL)
    miles = {"bright": lambda x, label: 1000 * Brightness()(x, label) + 7, "sharp": Sharpness()}
    assert torch.allclose(WeightedSum(miles, {"sharp": 0.5}, "batch")(images, LABEL), metres, atol=1e-4)
    standardised = [
        (each(images, LABEL) - each(images, LABEL).mean()) / each(images, LABEL).std(correction=0)
        for each in parts.values()
    ]
    assert torch.allclose(metres, standardised[0] + 0.5 * standardised[1], atol=1e-4)
    raw = WeightedSum(parts, {"sharp": 0.5}, "none")(images, LABEL)
    assert torch.allclose(raw, Brightness()(images, LABEL) + 0.5 * Sharpness()(images, LABEL))


def test_a_sum_standardises_within_each_label():
    images = torch.randn(12, 1, 4, 4).clamp(-1, 1)
    label = torch.arange(12) % 3
    total = WeightedSum({"bright": Brightness()})
    values = total(images, label)
    for number in range(3):
        inside = label == number
        assert torch.allclose(values[inside], total(images[inside], label[inside]), atol=1e-6)
        assert values[inside].mean().abs() < 1e-6
        assert torch.allclose(values[inside].std(correction=0), torch.ones(()), atol=1e-4)
    assert not total(torch.ones(4, 1, 2, 2), label[:4]).any()  # equal for all: nothing
    assert torch.allclose(total.combine(total.parts(images, label), label), values)


def test_a_reward_that_misbehaves_is_named_with_what_it_did(images):
    def half_blind(x, label):
        return torch.where(label == 2, torch.nan, x.mean((1, 2, 3)))

    with pytest.raises(UserError, match=r"half_blind .*nan .*1 of 4 images.* 2 \(label 2\)"):
        scored(half_blind, images, LABEL)
    with pytest.raises(UserError, match=r"shape \(4,\).* \(4, 1\)"):
        scored(lambda x, label: x.mean((1, 2, 3))[:, None], images, LABEL)
    with pytest.raises(UserError, match="got float"):
        scored(lambda x, label: 0.5, images, LABEL)
    with pytest.raises(UserError, match=r"reward blind .*nan"):
        WeightedSum({"blind": half_blind})(images, LABEL)
    with pytest.raises(ValueError, match=r"images in \[-1, 1\]"):
        scored(Brightness(), 3 * images, LABEL)
    with pytest.raises(ValueError, match=r"images in \[-1, 1\]"):
        scored(Brightness(), images * torch.nan, LABEL)


def test_settings_that_make_no_sense_are_refused():
    for make, message in (
        (lambda: WeightedSum({}), "at least one reward"),
        (lambda: WeightedSum({"a": Brightness()}, {"b": 1.0}), "no reward 'b'"),
        (lambda: WeightedSum({"a": Brightness()}, normalise="group"), "normalise"),
        (lambda: ClassLogProbability(lambda x: x, 0.0), "temperature must be positive"),
        (lambda: JPEGCompressibility(0), "quality must be"),
        (lambda: Symmetry("diagonal"), "axis"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            make()


def test_the_raw_sum_is_in_the_rewards_own_units_whatever_else_is_in_the_call(images):
    total = WeightedSum({"bright": Brightness(), "sharp": Sharpness()}, {"sharp": -0.5})
    raw = total.raw(total.parts(images, LABEL))
    assert torch.allclose(raw.float(), Brightness()(images, LABEL) - 0.5 * Sharpness()(images, LABEL))
    assert torch.equal(total.raw(total.parts(images[:2], LABEL[:2])), raw[:2])


def test_rewards_say_whether_they_depend_on_what_was_asked_for(images):
    asks = ClassLogProbability(lambda x: x.flatten(1)[:, :3])
    assert needs_label(asks)
    assert needs_label(ReferenceDistance(images, LABEL))
    assert needs_label(WeightedSum({"bright": Brightness(), "class": asks}))
    for reward in (Brightness(), ReferenceDistance(images), WeightedSum({"bright": Brightness()}), lambda x, label: x):
        assert not needs_label(reward)


def test_a_sum_is_named_by_its_parts():
    assert name_of(WeightedSum({"a": Brightness(), "b": Ink()}, {"b": -2.0})) == "1 a + -2 b"
    assert name_of(Ink()) == "Ink"
