"""The pretend device: mistakes that a GPU punishes are errors, waits are noted, and its numbers are the CPU's."""

import pytest
import torch
from pretend_device import NAME, Event, pretend
from torch import nn

HERE = "tests/test_pretend_device.py:"


@pytest.fixture
def waits():
    with pretend() as waits:
        yield waits


def test_a_tensor_of_the_hosts_is_refused_as_by_cuda(waits):
    x = torch.ones(4, 3, device=NAME)
    for mixed in (
        lambda: x + torch.ones(4, 3),
        lambda: torch.ones(4, 3).add_(x),
        lambda: x @ torch.ones(3, 2),
        lambda: torch.cat([x, torch.ones(1, 3)]),
        lambda: torch.stack([x.sum(), torch.tensor(1.0)]),
        lambda: nn.Linear(3, 2)(x),
        lambda: torch.where(torch.ones(4, 1, dtype=torch.bool), x, 0.0),
        lambda: torch.ones(3)[torch.zeros(2, dtype=torch.int64, device=NAME)],
        lambda: torch.randn(3, device=NAME, generator=torch.Generator()),
        lambda: x.normal_(generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError, match=r"same device|device type for generator"):
            mixed()
    with pytest.raises((TypeError, RuntimeError)):
        x.numpy()
    assert (x * torch.tensor(2.0)).device.type == NAME  # one number of the host's may stand in arithmetic
    assert not waits.found


def test_every_kind_of_wait_is_noted_with_its_line(waits):
    x = torch.arange(6.0, device=NAME)
    pinned, pageable = torch.ones(6).pin_memory(), torch.ones(6)
    expected = {
        "read": [lambda: x.sum().item(), lambda: float(x[0]), lambda: bool((x > 0).any()), lambda: x[x.argmax()]],
        "copy out": [lambda: x.cpu(), lambda: x.tolist(), lambda: pageable.copy_(x)],
        "copy in": [
            lambda: pageable.to(NAME),
            lambda: pageable.to(NAME, non_blocking=True),
            lambda: pinned.to(NAME),
            lambda: x.copy_(pageable),
            lambda: torch.tensor([1.0], device=NAME),
            lambda: x[torch.tensor([0, 1])],
        ],
        "size": [lambda: x.nonzero(), lambda: x[x > 2], lambda: x.unique(), lambda: torch.masked_select(x, x > 2)],
    }
    for kind, calls in expected.items():
        for call in calls:
            waits.found.clear()
            call()
            assert [(wait.kind, wait.place.startswith(HERE)) for wait in waits.found] == [(kind, True)], kind


def test_what_cuda_does_without_waiting_is_no_wait(waits):
    x, pinned = torch.arange(6.0, device=NAME), torch.ones(6).pin_memory()
    pinned.to(NAME, non_blocking=True)
    x.to("cpu", non_blocking=True)
    x[x > 2] = 0.0  # filled in, since one number has no size
    x[x.argsort()], x.index_select(0, x.argmax()[None]), torch.where(x > 2, x, 0.0), x.new_full((), 3.0)
    x[1:3], x[0], x.sum(), x.clamp_(max=2.0), torch.full((), 2.0, device=NAME)
    assert not waits.found


def test_a_copy_without_waiting_has_not_arrived_before_it_is_waited_for(waits):
    x = torch.ones(3, device=NAME)
    early, event = x.to("cpu", non_blocking=True), Event()
    assert early.isnan().all()
    event.record()
    x.add_(1)
    event.synchronize()
    assert early.tolist() == [1, 1, 1]
    assert not waits.found  # the device had other work meanwhile
    event.record()
    event.synchronize()
    assert [wait.kind for wait in waits.found] == ["event"]


def test_random_numbers_are_of_its_own_state(waits):
    host = torch.get_rng_state()
    torch.pretend.manual_seed(5)
    first = torch.randn(4, device=NAME)
    torch.pretend.manual_seed(5)
    again = torch.empty(4, device=NAME).normal_()
    assert torch.equal(first.cpu(), again.cpu())
    assert torch.equal(host, torch.get_rng_state())


def test_autocast_casts_what_cudas_does(waits):
    layer, x = nn.Linear(3, 3).to(NAME), torch.ones(2, 3, device=NAME)
    with torch.autocast(NAME, torch.bfloat16):
        y = layer(x)
        assert (y.dtype, y.exp().dtype, (y + 1).dtype, layer.weight.dtype) == (
            torch.bfloat16,
            torch.float32,
            torch.bfloat16,
            torch.float32,
        )
        with torch.autocast(NAME, enabled=False):
            assert layer(x).dtype == torch.float32
    y.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.device.type == NAME


def _steps(device: str, **options) -> list[torch.Tensor]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    x = torch.randn(4, 2, 8, 8)
    net, x = net.to(device), x.to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, **options)
    for _ in range(3):
        value, tangent = torch.func.jvp(lambda x: torch.func.functional_call(net, {}, x), (x,), (torch.ones_like(x),))
        loss = net(x).square().mean() + (value.detach() * tangent.detach()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return [weight.detach().cpu() for weight in net.parameters()]


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_its_numbers_are_the_cpus(waits, options):
    """Forward mode, backward, clipping and the ways an optimiser steps, up to the order of sums."""
    for own, other in zip(_steps(NAME, **options), _steps("cpu", **options), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_outside_it_there_is_no_device():
    with pretend():
        pass
    assert not torch.pretend.is_available()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device=NAME)
