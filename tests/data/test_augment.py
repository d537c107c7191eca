import numpy as np
import pytest
import torch

from lightning_diff.data import Augment
from lightning_diff.data.augment import PARTS, _inverse


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


def test_rotation_is_by_the_angle_of_the_vector_counter_clockwise_as_it_is_seen():
    before, after, mass, vector = moved("rotate")
    c, s = vector[:, 3] + 1, vector[:, 4]
    assert torch.allclose(c**2 + s**2, torch.ones(60), atol=1e-5)
    turned = torch.stack([c * before[:, 0] + s * before[:, 1], -s * before[:, 0] + c * before[:, 1]], 1)  # y runs down
    assert torch.allclose(after, turned, atol=2e-3)
    assert torch.allclose(mass, torch.ones(60), atol=0.01)


def test_stretching_keeps_areas_and_acts_along_its_angle():
    before, after, mass, vector = moved("stretch")
    a5 = vector[:, 5:7].norm(dim=1)
    along = vector[:, 5:7] / a5[:, None]  # up to the sign of a5, which turns the angle by pi
    along = along * torch.tensor([1.0, -1.0])  # y runs down
    k_plus, k_minus = 2 ** (0.2 * a5), 2 ** (-0.2 * a5)
    inner = (before * along).sum(1, keepdim=True) * along
    images = [inner * k[:, None] + (before - inner) / k[:, None] for k in (k_plus, k_minus)]
    closest = torch.minimum(*((image - after).norm(dim=1) for image in images))
    assert closest.max() < 0.01
    assert torch.allclose(mass, torch.ones(60), atol=0.03)


# (a2, ..., a7), and the matrix that takes a point of the new image to where it comes from, in coordinates from -1 to 1 whose y runs
# down: computed with the public code of EDM (NVlabs/edm, training/augment.py).
EDM = {
    (0.7, 0, 0, 0, 0, 0): [[0.90752, 0.0, 0.0], [0.0, 0.90752, 0.0]],
    (0, 0.5, 0, 0, 0, 0): [[0.87758, -0.47943, 0.0], [0.47943, 0.87758, 0.0]],
    (0, 0, 0.4, 1.1, 0, 0): [[0.90499, 0.10982, 0.0], [0.10982, 1.1183, 0.0]],
    (0, 0, -0.9, 0, 0, 0): [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    (0, 0, 0, 0, 0.6, -1.2): [[1.0, 0.0, -0.15], [0.0, 1.0, 0.3]],
    (-0.5, 2.0, 0.8, -0.7, 0.3, 0.9): [[-0.35217, -0.93859, 0.2376], [1.01972, -0.54406, 0.04594]],
}


@pytest.mark.parametrize("parameters", EDM, ids=str)
def test_every_transformation_is_edms(parameters):
    (found,) = _inverse(np.array([0, 0, *parameters], dtype=np.float64)[:, None])
    linear, shift = found[:, :2], found[:, 2]
    assert np.column_stack([linear, -linear @ shift]) == pytest.approx(np.array(EDM[parameters]), abs=2e-5)


def test_half_of_the_stretches_are_along_x_and_the_vector_has_edms_mean_squares():
    _, vector = Augment(probability=1.0)(torch.zeros(20_000, 1, 2, 2), 0, np.arange(20_000))
    assert (vector[:, 6] == 0).double().mean() == pytest.approx(0.5, abs=0.018)  # 5 standard errors
    mean_square = vector.double().square().mean(0).tolist()
    # cos a - 1: 3/2, sin a: 1/2; a5 cos a4: (1 + 1/2) / 2, a5 sin a4: 1/4
    assert mean_square == pytest.approx([0.5, 0.5, 1, 1.5, 0.5, 0.75, 0.25, 1, 1], rel=0.06)


def test_the_form_of_version_0_1_turns_the_other_way_and_is_another_draw_of_angles():
    image, p = pictures(100), np.arange(100)
    for part in ("scale", "translate"):
        new, old = (Augment(probability=1.0, parts=[part], form=form)(image, 0, p)[0] for form in ("edm", "0.1"))
        assert torch.equal(new, old)
    new, vector = Augment(probability=1.0, parts=["rotate"])(image, 0, p)
    old, told = Augment(probability=1.0, parts=["rotate"], form="0.1")(image, 0, p)
    assert torch.equal(vector, told)
    assert torch.allclose(old, Augment(probability=1.0, parts=["rotate"])(image.flip(2), 0, p)[0].flip(2), atol=1e-5)
    assert not torch.allclose(new, old, atol=0.1)
    _, told = Augment(probability=1.0, parts=["stretch"], form="0.1")(image, 0, p)
    assert (told[:, 6] != 0).all()


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
