"""What is drawn with when nobody says."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_diff import schedules
from lightning_diff.data import Toy
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import Reference
from lightning_diff.metrics.evaluate_denoiser import evaluate_denoiser
from lightning_diff.metrics.search_levels import search_levels, search_start
from lightning_diff.oracle import Gaussian, GaussianMixture
from lightning_diff.schedules import sampling

DENOISER = Denoiser(nn.Identity(), 0.7)
CONSISTENCY = Denoiser(nn.Identity(), 0.7, kind="consistency")


def test_the_model_says_how_it_is_drawn_from():
    heun = sampling.choose(DENOISER)
    assert (heun.solver, heun.steps, heun.name) == ("heun", 18, "heun")
    assert torch.equal(heun.sigmas, schedules.karras(18))
    two = sampling.choose(CONSISTENCY)
    assert (two.solver, two.steps, two.name) == ("consistency", 2, "consistency")
    assert torch.equal(two.sigmas, schedules.consistency(2, sigma_data=0.7))
    assert sampling.choose(GaussianMixture(torch.ones(1), torch.zeros(1, 2), 1.0)).solver == "heun"


def test_what_is_asked_for_is_what_one_gets_and_the_protocol_names_it():
    assert sampling.choose(CONSISTENCY, "heun", 5).name == "heun"
    assert sampling.choose(DENOISER, "consistency").steps == 2
    assert sampling.choose(DENOISER, "euler", 3, "uniform").name == "euler/uniform"
    given = sampling.choose(CONSISTENCY, levels=[0.8, 0.3], sigma_max=50.0)
    assert given.sigmas.tolist() == [50, 0.8, 0.3, 0]
    assert (given.steps, given.name) == (3, "consistency/0.8/0.3")
    assert sampling.choose(CONSISTENCY, None, 3, "karras").name == "consistency/karras"
    one = sampling.choose(CONSISTENCY, levels=[])
    assert (one.sigmas.tolist(), one.name) == ([80, 0], "consistency")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": [0.3, 0.8]}, "must decrease strictly"),
        ({"levels": [90.0]}, "must decrease strictly"),
        ({"levels": [0.8], "steps": 3}, "3 steps .*2 levels.* 1"),
        ({"levels": [0.8], "solver": "heun"}, "levels .*solver consistency"),
        ({"levels": [0.8], "grid": "karras"}, "levels.*grid"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sampling.choose(CONSISTENCY, **options)


def test_a_search_finds_a_level_that_is_better_than_the_usual_one():
    """A model whose output is exact below t = 0.9, and above with far too narrow samples: the second level has to lie below."""
    data = Toy(batch_size=1, n=600)
    data.setup()
    exact = Gaussian(torch.zeros(2), 0.5).consistency_model(0.7)

    class Narrow(nn.Module):
        sigma_data = 0.7

        def forward(self, x, sigma, label=None):
            return exact(x, sigma) * (0.3 if math.atan(float(sigma) / 0.7) > 0.9 else 1.0)

    reference = Reference(data, "pixels")
    levels = search_levels(Narrow(), reference, 200, steps=2, seed=1)
    assert len(levels) == 1
    assert 0.5 < math.atan(levels[0] / 0.7) < 0.9
    found, usual = (
        evaluate_denoiser(Narrow(), reference, 200, sampling=sampling.choose(exact, "consistency", levels=these))[
            0
        ].value
        for these in (levels, None)
    )
    assert found < usual
    three = search_levels(Narrow(), reference, 50, steps=3, seed=1)
    assert 80 > three[0] > three[1] > 0


class Pointed(nn.Module):
    """Of low levels four points, with the data's mean and covariance; of those above t = 0.6 a cloud that is too narrow."""

    sigma_data = 0.7
    exact = Gaussian(torch.zeros(2), 0.7).consistency_model(0.7)

    def forward(self, x, sigma, label=None):
        end = self.exact(x, sigma)
        return 0.8 * end if math.atan(float(sigma) / 0.7) > 0.6 else 0.7 * end.sign()


def test_a_search_leaves_out_levels_of_less_recall_than_is_asked_for():
    data = Toy(batch_size=1, n=600)
    data.setup()
    reference = Reference(data, "pixels")
    nearest = search_levels(Pointed(), reference, 200, seed=1)
    varied = search_levels(Pointed(), reference, 200, seed=1, min_recall=0.3)
    assert nearest[0] < 0.7 * math.tan(0.6) < varied[0]
    for levels, is_enough in ((nearest, False), (varied, True)):
        sampling_of = sampling.choose(Pointed.exact, "consistency", levels=levels)
        rows = evaluate_denoiser(Pointed(), reference, 200, sampling=sampling_of, seed=1)
        assert ({row.metric: row.value for row in rows}["recall_pixels"] >= 0.3) is is_enough


@pytest.mark.parametrize("search", [search_levels, partial(search_start, levels=[0.2])])
def test_a_search_that_does_not_reach_the_recall_says_so(search, monkeypatch):
    data = Toy(batch_size=1, n=600)
    data.setup()
    reference = Reference(data, "pixels")
    with pytest.raises(UserError, match=r"no level that was tried has a recall of 0\.9; the most is 0"):
        search(lambda x, sigma, label=None: 0.7 * Pointed.exact(x, sigma).sign(), reference, 200, min_recall=0.9)
    by_moments = [SimpleNamespace(metric="frechet_pixels", value=1.0)]
    monkeypatch.setattr("lightning_diff.metrics.search_levels.evaluate_denoiser", lambda *given, **how: by_moments)
    with pytest.raises(UserError, match="min_recall: recall compares images"):
        search(Pointed(), reference, 200, min_recall=0.9)


def test_a_search_finds_a_start_below_which_the_model_is_exact():
    data = Toy(batch_size=1, n=600)
    data.setup()
    exact = Gaussian(torch.zeros(2), 0.5).consistency_model(0.7)

    class Narrow(nn.Module):
        sigma_data, sigma_max = 0.7, 40.0

        def forward(self, x, sigma, label=None):
            return exact(x, sigma) * (0.3 if float(sigma) > 12 else 1.0)

    found = search_start(Narrow(), Reference(data, "pixels"), 200, levels=[0.8], seed=1)
    assert 1.25 < found < 12  # of 40, 20, 10, 5, 2.5, 1.25 and what lies around the best
