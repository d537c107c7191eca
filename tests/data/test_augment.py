import numpy as np
import pytest
import torch

from lightning_diff.data import Augment
from lightning_diff.data.augment import PARTS


def pictures(n=64, size=16, channels=2):
    """Smooth blobs, off the centre so that every movement shows."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    blob = torch.exp(-8 * ((x - 0.3) ** 2 + (y + 0.2) ** 2)) + 0.5 * torch.exp(-20 * ((x + 0.4) ** 2 + (y - 0.1) ** 2))
    return torch.stack([blob * (c + 1) for c in range(channels)]).expand(n, -1, -1, -1)


def test_the_vector_is_zero_exactly_where_the_image_is_untouched():
    image = pictures(400)
    out, vector = Augment(probability=0.2)(image, seed=0, positions=np.arange(400))
    same = (out == image).flatten(1).all(1)
    assert torch.equal(same, (vector == 0).all(1))
    assert 0 < same.sum() < 400


def test_without_probability_only_mirroring_is_left_and_without_parts_nothing():
    image, p = pictures(300), np.arange(300)
    out, vector = Augment(probability=0.0)(image, 0, p)
    assert (vector[:, 1:] == 0).all()
    mirrored = vector[:, 0] == 1
    assert 110 < mirrored.sum() < 190
    assert torch.equal(out[mirrored], image[mirrored].flip(-1))
    assert torch.equal(out[~mirrored], image[~mirrored])
    untouched, zero = Augment(probability=1.0, parts=[])(image, 0, p)
    assert torch.equal(untouched, image)
    assert (zero == 0).all()


@pytest.mark.parametrize("part", PARTS)
def test_each_part_has_its_own_entries(part):
    entries = dict(zip(PARTS, ([0], [1], [2], [3, 4], [5, 6], [7, 8]), strict=True))[part]
    _, vector = Augment(probability=1.0, parts=[part])(pictures(200), 0, np.arange(200))
    assert (vector[:, entries] != 0).any(0).all()
    assert (np.delete(vector.numpy(), entries, axis=1) == 0).all()


def test_each_part_is_on_as_often_as_asked_and_independently():
    _, vector = Augment(probability=0.12)(torch.zeros(20_000, 1, 2, 2), 0, np.arange(20_000))
    on = torch.stack([vector[:, 2] != 0, vector[:, 3] != 0, vector[:, 5] != 0, vector[:, 7] != 0]).double()
    assert (on.mean(1) - 0.12).abs().max() < 0.011  # 5 standard errors
    assert (torch.corrcoef(on) - torch.eye(4)).abs().max() < 0.035


def centre(image):
    """Centre of mass of the first channel: x, y in -1..1 between the outer edges, and the mass."""
    size = image.shape[-1]
    at = (torch.arange(size) * 2 + 1) / size - 1
    mass = image[:, 0].clamp(min=0)
    total = mass.sum((1, 2))
    return torch.stack([(mass.sum(1) * at).sum(1) / total, (mass.sum(2) * at).sum(1) / total], 1), total


def dot(n, x, y, size=64):
    at = (torch.arange(size) * 2 + 1) / size - 1
    return torch.exp(-150 * ((at - x) ** 2 + (at[:, None] - y) ** 2)).expand(n, 1, -1, -1)


def moved(part, n=60):
    image = dot(n, 0.3, -0.2)
    out, vector = Augment(probability=1.0, parts=[part])(image, 0, np.arange(n))
    (before, mass_before), (after, mass_after) = centre(image), centre(out)
    return before, after, mass_after / mass_before, vector


def test_translation_moves_by_eighths_of_the_image():
    before, after, _, vector = moved("translate")
    small = vector[:, 7:].abs().max(1).values < 1.5  # the dot stays inside
    assert torch.allclose((after - before)[small], vector[small, 7:] / 4, atol=2e-3)


def test_scaling_multiplies_distances_by_powers_of_two_to_the_fifth():
    before, after, mass, vector = moved("scale")
    factor = 2 ** (0.2 * vector[:, 2])
    inside = factor < 1.5
    assert torch.allclose((after / before)[inside], factor[inside, None].expand(-1, 2), atol=0.02)
    assert torch.allclose(mass[inside], factor[inside] ** 2, rtol=0.05)


def test_rotation_is_by_the_angle_of_the_vector():
    before, after, mass, vector = moved("rotate")
    c, s = vector[:, 3] + 1, vector[:, 4]
    assert torch.allclose(c**2 + s**2, torch.ones(60), atol=1e-5)
    turned = torch.stack([c * before[:, 0] - s * before[:, 1], s * before[:, 0] + c * before[:, 1]], 1)
    assert torch.allclose(after, turned, atol=2e-3)
    assert torch.allclose(mass, torch.ones(60), atol=0.01)


def test_stretching_keeps_areas_and_acts_along_its_angle():
    before, after, mass, vector = moved("stretch")
    a5 = vector[:, 5:7].norm(dim=1)
    along = vector[:, 5:7] / a5[:, None]  # up to the sign of a5, which turns the angle by pi
    k_plus, k_minus = 2 ** (0.2 * a5), 2 ** (-0.2 * a5)
    inner = (before * along).sum(1, keepdim=True) * along
    images = [inner * k[:, None] + (before - inner) / k[:, None] for k in (k_plus, k_minus)]
    closest = torch.minimum(*((image - after).norm(dim=1) for image in images))
    assert closest.max() < 0.01
    assert torch.allclose(mass, torch.ones(60), atol=0.03)


def test_images_need_not_be_square():
    image = dot(40, 0.2, 0.1)[..., 16:48, :]  # 32 high, 64 wide
    out, vector = Augment(probability=1.0, parts=["rotate"])(image, 0, np.arange(40))
    quarter = (vector[:, 3].abs() + 1 - 1 < 0.3).nonzero()[:, 0]
    assert out.shape == image.shape
    # A rotation keeps the dot round and its mass, as long as it stays inside.
    assert torch.allclose(out[quarter].sum((1, 2, 3)), image[quarter].sum((1, 2, 3)), rtol=0.03)


def test_options_are_checked():
    with pytest.raises(ValueError, match="probability"):
        Augment(probability=1.5)
