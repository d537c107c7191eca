"""Laws of generation: a sample is a function of its number, whatever is made beside it."""

import pytest
import torch
from torch import nn

from lightning_diff import schedules
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError
from lightning_diff.oracle import GaussianMixture
from lightning_diff.samplers.generate import generate

SHAPE = (1, 4, 4)
SIGMAS = schedules.karras(6)


@pytest.fixture
def oracle():
    means = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    return GaussianMixture(torch.ones(4), means, 0.2, torch.tensor([0, 0, 1, 2]))


class Noisy(nn.Module):
    """A network with dropout, a frozen part in eval mode, and a note of how it was called."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(16).eval()
        self.grad, self.training_when_called = None, None

    def forward(self, x, c_noise, label=None):
        self.grad, self.training_when_called = torch.is_grad_enabled(), self.training
        return self.dropout(self.frozen(self.linear(x.flatten(1)))).view_as(x)


@pytest.mark.parametrize("options", [{}, {"S_churn": 10.0}, {"solver": "dpmpp_2m"}, {"guidance": 2.0}])
def test_independent_of_batch_order_and_company(oracle, options):
    labels = torch.arange(10) % 3
    whole = generate(oracle, SHAPE, range(10), labels, sigmas=SIGMAS, **options)
    assert whole.shape == (10, *SHAPE)
    for batch in (1, 3, 10):
        torch.testing.assert_close(
            generate(oracle, SHAPE, range(10), labels, sigmas=SIGMAS, batch=batch, **options), whole, atol=1e-5, rtol=0
        )
    # two processes, each with every second one
    for rank in (0, 1):
        part = generate(oracle, SHAPE, range(10)[rank::2], labels[rank::2], sigmas=SIGMAS, **options)
        torch.testing.assert_close(part, whole[rank::2], atol=1e-5, rtol=0)
    assert whole.flatten(1).unique(dim=0).shape[0] == 10


def test_noise_is_exactly_the_addressed_one():
    """What the denoiser first sees: sigmas[0] * rng.normal(seed, "sample", [i], shape), bit for bit, in batches of any
    size."""
    for batch in (2, 5):
        seen = []

        def denoiser(x, sigma, label, seen=seen):
            seen.append(x)
            return x

        generate(denoiser, SHAPE, [7, 3, 11, 4, 2], sigmas=torch.tensor([80.0, 0.0]), batch=batch, seed=5)
        assert torch.equal(torch.cat(seen), 80 * rng.normal(5, "sample", [7, 3, 11, 4, 2], SHAPE))


def test_churn_noise_is_exactly_the_addressed_one():
    seen = []

    def denoiser(x, sigma, label):
        seen.append(x)
        return torch.zeros_like(x)

    generate(denoiser, SHAPE, [7, 3], sigmas=torch.tensor([3.0, 0.0]), S_churn=0.2, dtype=torch.float64)
    sample, churn = (rng.normal(0, purpose, [7, 3], SHAPE).double() for purpose in ("sample", "churn 0"))
    torch.testing.assert_close(seen[0], 3 * sample + (3.6**2 - 3**2) ** 0.5 * churn)


def test_seed_and_number_decide(oracle):
    a = generate(oracle, SHAPE, [0, 1], sigmas=SIGMAS)
    assert torch.equal(a, generate(oracle, SHAPE, [0, 1], sigmas=SIGMAS))
    assert not torch.allclose(a, generate(oracle, SHAPE, [0, 1], sigmas=SIGMAS, seed=1))
    torch.testing.assert_close(generate(oracle, SHAPE, [1, 1], sigmas=SIGMAS), a[[1, 1]])


def test_labels_are_obeyed(oracle):
    labels = torch.tensor([1, 2]).repeat(8)
    samples = generate(oracle, SHAPE, range(16), labels, sigmas=schedules.karras(18))
    distance = (samples[:, None] - oracle.means).flatten(2).norm(dim=2)
    assert torch.equal(oracle.labels[distance.argmin(1)], labels)


def test_samples_have_the_data_s_moments():
    """End to end: from noise to the oracle's own distribution."""
    oracle = GaussianMixture(torch.tensor([1.0, 3.0]), torch.tensor([[-1.0], [1.0]]), 0.1)
    samples = generate(oracle, (1,), range(4000), sigmas=schedules.karras(30))
    assert (samples > 0).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert samples[samples > 0].std().item() == pytest.approx(0.1, rel=0.1)


def test_modes_and_gradients_are_given_back():
    net = Noisy()
    denoiser = Denoiser(net)
    samples = generate(denoiser, SHAPE, range(4), sigmas=SIGMAS)
    assert (net.grad, net.training_when_called) == (False, False)
    assert net.training
    assert net.dropout.training
    assert not net.frozen.training
    assert torch.is_grad_enabled()
    # no_grad, not inference mode: the result may enter a graph
    assert not samples.is_inference()


def test_modes_are_given_back_after_an_error():
    class Broken(Noisy):
        def forward(self, x, c_noise, label=None):
            raise RuntimeError("broken")

    denoiser = Denoiser(Broken())
    with pytest.raises(RuntimeError, match="broken"):
        generate(denoiser, SHAPE, range(4), sigmas=SIGMAS)
    assert denoiser.training
    assert denoiser.net.dropout.training


def test_global_random_state_is_left_alone(oracle):
    before = torch.get_rng_state()
    generate(oracle, SHAPE, range(4), sigmas=SIGMAS, S_churn=5.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_solver_of_ones_own(oracle):
    def jump(denoise, x, sigmas, *, generator=None):
        return denoise(x, sigmas[0].to(x.dtype))

    samples = generate(oracle, SHAPE, [0], sigmas=SIGMAS, solver=jump)
    assert torch.equal(samples, oracle(80 * rng.normal(0, "sample", [0], SHAPE), torch.tensor(80.0)))


def test_nothing_to_make(oracle):
    assert generate(oracle, SHAPE, [], sigmas=SIGMAS).shape == (0, *SHAPE)


def test_bad_arguments_are_named(oracle):
    with pytest.raises(UserError, match="mean 'euler'"):
        generate(oracle, SHAPE, [0], sigmas=SIGMAS, solver="eulr")
    with pytest.raises(ValueError, match="batch"):
        generate(oracle, SHAPE, [0], sigmas=SIGMAS, batch=0)
    with pytest.raises(ValueError, match="label for each"):
        generate(oracle, SHAPE, [0, 1], torch.tensor([0]), sigmas=SIGMAS)
    with pytest.raises(ValueError, match="labels must be"):
        generate(oracle, SHAPE, [0], torch.tensor([9]), sigmas=SIGMAS)
