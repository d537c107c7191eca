import numpy as np
import torch

from lightning_diff.foundation import rng


def test_a_number_depends_on_its_address_alone():
    together = rng.uniform(3, "flip", range(100))
    alone = [rng.uniform(3, "flip", [p])[0] for p in range(100)]
    assert np.array_equal(together, alone)
    noise = rng.normal(3, "noise", [7, 50, 7], (2, 4, 4))
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1], rng.normal(3, "noise", [50], (2, 4, 4))[0])


def test_seed_purpose_and_position_each_change_the_number():
    base = rng.key(0, "noise", 0)
    assert len({base, rng.key(1, "noise", 0), rng.key(0, "flip", 0), rng.key(0, "noise", 1)}) == 4


def test_uniforms_are_uniform_and_independent_of_their_neighbours():
    n = 200_000
    u = rng.uniform(0, "level", np.arange(n))
    assert u.min() > 0
    assert u.max() < 1
    counts = np.histogram(u, 64, (0, 1))[0]
    chi_squared = ((counts - n / 64) ** 2 / (n / 64)).sum()
    assert chi_squared < 63 + 5 * np.sqrt(2 * 63)
    for other in (u[1:], rng.uniform(1, "level", np.arange(n - 1)), rng.uniform(0, "flip", np.arange(n - 1))):
        assert abs(np.corrcoef(u[:-1], other)[0, 1]) < 5 / np.sqrt(n)


def test_the_stream_of_numbers_is_fixed_for_good():
    """A change of these values would change every run that anybody resumes."""
    assert rng.key(0, "noise", 0) == 4838202001571903404
    assert rng.uniform(0, "level", [0, 1, 2]).tolist() == [0.813448230381976, 0.7190232727617675, 0.4177822628711966]
    assert rng.permutation(0, "image", 0, 10).tolist() == [0, 8, 7, 5, 2, 9, 4, 3, 1, 6]


def test_a_permutation_shows_everything_once_and_differs_between_epochs():
    first, second = (rng.permutation(0, "image", epoch, 1000) for epoch in (0, 1))
    assert sorted(first) == list(range(1000))
    assert not np.array_equal(first, second)


def test_normals_have_unit_moments():
    z = rng.normal(0, "noise", range(2000), (1, 8, 8))
    assert abs(z.mean()) < 5 / z.numel() ** 0.5
    assert abs(z.var() - 1) < 5 * (2 / z.numel()) ** 0.5
