import pickle
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from lightning_diff.foundation import rng


def new(seed):
    return rng.Seed(seed, 2)


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


NORMALS = 2_000_000


def normals(seed=0, purpose="noise", first=0):
    return rng.normal(new(seed), purpose, range(first, first + NORMALS // 64), (1, 8, 8)).flatten(1).double()


def test_normals_have_the_moments_and_the_distribution_of_normals():
    z = normals()
    n = z.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - moment) < 5 * (variance / n) ** 0.5, power
    assert kstest(z.flatten()[::4].numpy(), "norm").pvalue > 1e-4
    for column in (0, 31, 32, 63):  # both halves of a pair, first and last
        assert kstest(z[:, column].numpy(), "norm").pvalue > 1e-4
    assert z.abs().max() < 7


@pytest.mark.parametrize("squared", [False, True])
def test_noise_is_independent_of_its_neighbours_and_of_other_seeds_and_purposes(squared):
    z = normals()
    others = [
        z.roll(1, 0),
        z.roll(1, 1),
        z.roll(32, 1),
        normals(seed=1),
        normals(seed=1 << 40),
        normals(purpose="sample"),
    ]
    if squared:
        z, others = z**2 - 1, [other**2 - 1 for other in others]
    for other in others:
        correlation = (z * other).mean() / z.var()
        assert abs(correlation) < 5 / NORMALS**0.5


@pytest.mark.whole
def test_no_two_of_a_million_positions_nor_of_two_runs_have_equal_noise():
    pairs = [rng.wide_keys(seed, "noise", np.arange(1_000_000)) for seed in (0, 1)]
    assert len(np.unique(np.concatenate([first for first, _ in pairs]))) == 2_000_000
    rows = torch.cat([rng.normal(new(seed), "noise", range(1_000_000), (2,)) for seed in (0, 1)]).numpy()
    assert len(np.unique(rows.view(np.uint64))) >= 2_000_000 - 3  # of pairs of floats with 2^50 values or so


def test_seeds_that_differ_in_their_high_bits_differ_in_every_stream():
    seeds = (5, 5 + 2**32, 5 + 2**48)
    drawn = [
        torch.cat(
            [
                rng.normal(new(seed), "noise", [0], (4,)).flatten(),
                torch.rand(4, generator=rng.seed_generator(torch.Generator(), new(seed), "dropout", 3)),
                torch.randn(4, generator=rng.seed_generator(torch.Generator(), new(seed), "init")),
            ]
        )
        for seed in seeds
    ]
    for one, other in combinations(drawn, 2):
        assert not (one == other).any()


def test_a_generator_is_started_by_address_alone_and_says_uniforms_and_normals():
    generator = torch.Generator().manual_seed(3)
    torch.randn(3, generator=generator)  # an odd number: one is kept back
    first = torch.randn(5, generator=rng.seed_generator(generator, new(0), "dropout", 7))
    again = torch.randn(5, generator=rng.seed_generator(torch.Generator(), new(0), "dropout", 7))
    assert torch.equal(first, again)
    u = torch.cat([torch.rand(100, generator=rng.seed_generator(generator, new(0), "dropout", p)) for p in range(2000)])
    assert kstest(u.numpy(), "uniform").pvalue > 1e-4


def test_a_generator_that_was_given_the_seed_itself_has_its_numbers_still_and_knows_all_bits():
    def drawn(seed):
        return torch.randn(4, generator=rng.start(torch.Generator(), seed, "ays"))

    assert torch.equal(drawn(5), torch.randn(4, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(drawn(5), drawn(5 + 2**32))
    assert not torch.equal(drawn(5), drawn(new(5)))
    assert not torch.equal(drawn(-1), drawn(2**32 - 1))


def test_noise_of_a_position_does_not_depend_on_how_many_are_drawn_at_once():
    many = rng.normal(new(0), "noise", range(300), (3, 32, 32))
    assert torch.equal(many[123:124], rng.normal(new(0), "noise", [123], (3, 32, 32)))
    assert rng.normal(new(0), "noise", [], (3, 2)).shape == (0, 3, 2)
    assert rng.normal(new(0), "noise", range(2), (3,)).shape == (2, 3)


def test_the_generators_are_fixed_for_good():
    assert rng.wide_keys(0, "noise", [1])[1][0] == 7700374841888438405
    assert rng.normal(new(0), "noise", [1], (4,))[0].tolist() == pytest.approx(
        [0.8152397, 0.6883772, -1.201586, -0.32767], abs=1e-6
    )
    assert rng.normal(rng.Seed(0, 1), "noise", [1], (4,))[0].tolist() == pytest.approx(
        [0.5681439, -0.9173047, 0.3399019, 0.0066785], abs=1e-6
    )


def test_a_seed_keeps_its_generator_on_the_way_to_another_process():
    seed = pickle.loads(pickle.dumps(rng.Seed(3, 1)))
    assert (seed, seed.generator, rng.generator_of(3)) == (3, 1, 2)
    with pytest.raises(ValueError, match="1 and 2"):
        rng.Seed(3, 7)
