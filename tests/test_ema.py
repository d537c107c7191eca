"""Laws of the weight averages: each equals the weighted sum of the weights' history that its profile promises."""

import math

import pytest
import torch
from torch import nn

from lightning_diff import ema

BATCH = 128


def averaged(history, profile):
    """The average after a history of weights (steps, n), one step for each row."""
    average = ema.start({"w": torch.zeros_like(history[0])})
    for step, weights in enumerate(history, start=1):
        ema.update_(average, {"w": weights}, profile.decay(step * BATCH, BATCH))
    return average["w"]


def random_walk(steps, n=500):
    return torch.randn(steps, n, dtype=torch.float64).cumsum(0)


def relative(value, truth):
    return ((value - truth).norm() / truth.norm()).item()


def test_power_function_average_is_the_weighted_sum_of_the_history():
    history, profile = random_walk(200), ema.PowerFunction(0.08)
    edges = (torch.arange(201, dtype=torch.float64) / 200) ** (profile.gamma + 1)  # the profile's integral up to t
    assert relative(averaged(history, profile), edges.diff() @ history) < 1e-12


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.25])
def test_sigma_rel_is_the_relative_standard_deviation_of_the_profile(sigma_rel):
    gamma = ema.sigma_rel_to_gamma(sigma_rel)
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    share = t**gamma / (t**gamma).sum()
    mean = share @ t
    assert math.sqrt(share @ (t - mean) ** 2) == pytest.approx(sigma_rel, rel=1e-6)
    assert ema.gamma_to_sigma_rel(gamma) == pytest.approx(sigma_rel, rel=1e-12)


def test_the_widest_power_function_is_the_plain_mean():
    history = random_walk(100)
    assert relative(averaged(history, ema.PowerFunction(ema.WIDEST)), history.mean(0)) < 1e-6


def test_half_life_halves():
    profile = ema.HalfLife(images=10 * BATCH, ramp_up=None)
    jump = torch.ones(10, 1, dtype=torch.float64)  # the average starts at zero
    assert averaged(jump, profile).item() == pytest.approx(0.5, rel=1e-12)


def test_half_life_ramps_up_with_the_images_seen_before_the_step():
    profile = ema.HalfLife(images=100_000, ramp_up=0.05)
    assert profile.decay(BATCH, BATCH) == 0.0  # forgets the initial weights at once
    assert profile.decay(50_000 + BATCH, BATCH) == pytest.approx(0.5 ** (BATCH / 2_500))
    assert profile.decay(2_000_000 + BATCH, BATCH) == profile.decay(9_000_000, BATCH) == 0.5 ** (BATCH / 100_000)


def test_inner_product_is_the_integral_of_the_two_profiles():
    t = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000

    def profile(images, gamma):
        return (gamma + 1) * t**gamma / images ** (gamma + 1) * (t <= images)

    for a, b in [((1.0, 6.9), (1.0, 17.0)), ((0.4, 3.0), (0.9, 8.0)), ((0.9, 8.0), (0.4, 3.0))]:
        closed = ema.inner_product(*(torch.tensor(x, dtype=torch.float64) for x in (*a, *b)))
        assert closed.item() == pytest.approx((profile(*a) * profile(*b)).mean().item(), rel=1e-4)


def test_posthoc_weights_find_a_stored_average_exactly():
    images, gammas = [100, 100, 200, 200, 300, 300], [6.9, 17.0] * 3
    weights = ema.posthoc_weights(images, gammas, 200, 17.0)
    assert torch.allclose(weights, torch.eye(6, dtype=torch.float64)[3], atol=1e-9)


def test_posthoc_weights_sum_to_one_even_where_the_fit_is_poor():
    weights = ema.posthoc_weights([100, 100], [6.9, 17.0], 90, 0.5)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_posthoc_weights_share_between_equal_snapshots():
    weights = ema.posthoc_weights([100, 100], [6.9, 6.9], 100, 6.9)
    assert torch.allclose(weights, torch.full((2,), 0.5, dtype=torch.float64))


@pytest.fixture(scope="module")
def walk():
    """A random walk, and the snapshots of two averages of it: (history, snapshots, images, gammas)."""
    history = torch.randn(600, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    profiles = ema.PowerFunction(0.05), ema.PowerFunction(0.10)
    stored = [(step, profile) for step in range(20, 601, 20) for profile in profiles]
    snapshots = [{"w": averaged(history[:step], profile)} for step, profile in stored]
    return history, snapshots, [step * BATCH for step, _ in stored], [profile.gamma for _, profile in stored]


@pytest.mark.parametrize("moment", [600, 487])
@pytest.mark.parametrize("sigma_rel", [0.06, 0.075, 0.12, 0.2])
def test_reconstruction_equals_the_directly_tracked_average_on_a_random_walk(walk, sigma_rel, moment):
    history, snapshots, images, gammas = walk
    target = ema.PowerFunction(sigma_rel)
    weights = ema.posthoc_weights(images, gammas, moment * BATCH, target.gamma)
    rebuilt = ema.reconstruct(snapshots, weights)["w"].double()
    assert relative(rebuilt, averaged(history[:moment], target)) < 0.01


def test_an_average_of_low_precision_weights_is_kept_in_float32():
    weights = {"w": torch.ones(3, dtype=torch.bfloat16)}
    average = ema.start(weights)
    for _ in range(100):
        ema.update_(average, {"w": weights["w"] * 2}, 0.999)  # bfloat16 would round each step of 0.001 away
    assert average["w"].dtype == torch.float32
    assert average["w"][0].item() == pytest.approx(2 - 0.999**100, rel=1e-5)


def test_an_average_is_independent_of_the_weights_it_started_from():
    layer = nn.Linear(2, 2)
    average = ema.start(dict(layer.named_parameters()))
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(average["weight"], before)
    assert not average["weight"].requires_grad


def test_snapshots_of_different_networks_are_refused():
    with pytest.raises(ValueError, match="different networks"):
        ema.reconstruct([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], torch.tensor([0.5, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3, math.nan])
def test_a_width_that_no_profile_has_is_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"sigma_rel .* in"):
        ema.PowerFunction(sigma_rel)


@pytest.mark.parametrize("arguments", [{"images": 0}, {"images": 100, "ramp_up": 0.0}])
def test_a_half_life_that_forgets_everything_is_refused(arguments):
    with pytest.raises(ValueError, match="must be positive"):
        ema.HalfLife(**arguments)


@pytest.mark.parametrize("images", [0, 101])
def test_a_moment_without_snapshots_is_refused(images):
    with pytest.raises(ValueError, match="target_images"):
        ema.posthoc_weights([50, 100], [6.9, 6.9], images, 6.9)
