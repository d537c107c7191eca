import jaxtyping
import pytest
import torch

from lightning_diff.nets import MLP


@pytest.fixture
def without_annotation_checks():
    """Dynamo cannot trace the checkers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("norm", ["adaptive", "double"])
@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_any_shape_goes_through(norm, shape):
    net = MLP(shape, 3, width=32, depth=2, norm=norm, embedding="fourier", dropout=0.1)
    x = torch.randn(5, *shape)
    y = net(x, torch.randn(5), torch.tensor([0, 1, 2, 3, 0]))
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert 0 < y.abs().max() < 1e-2
    y.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_no_label_is_the_last_value():
    net = MLP((2,), 3, width=32, depth=1).double()
    x, c_noise = torch.randn(4, 2).double(), torch.randn(4).double()
    assert torch.equal(net(x, c_noise), net(x, c_noise, torch.full((4,), 3)))
    assert not torch.equal(net(x, c_noise), net(x, c_noise, torch.full((4,), 1)))


def test_it_learns_a_denoiser_in_the_plane():
    """Data on the two points (1, 1) and (-1, -1): E[x0 | x] = tanh((x_1 + x_2) / sigma^2) (1, 1)."""
    net = MLP((2,), width=32, depth=2)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        x0 = torch.randint(0, 2, (256, 1), generator=generator).float().expand(-1, 2) * 2 - 1
        x = x0 + torch.randn(256, 2, generator=generator)
        loss = (net(x, torch.zeros(256)) - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    exact = torch.tanh(x.sum(1, keepdim=True)).expand(-1, 2)
    assert (net(x, torch.zeros(256)) - exact).square().mean() < 0.02


@pytest.mark.usefixtures("without_annotation_checks")
def test_autocast_and_compilation_give_the_same_function():
    net = MLP((2,), 3, width=32, depth=2)
    torch.nn.init.normal_(net.output.weight)
    x, c_noise, label = torch.randn(8, 2), torch.randn(8), torch.randint(0, 4, (8,))
    y = net(x, c_noise, label)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(x, c_noise, label)
    assert narrow.dtype == torch.float32
    assert (narrow - y).norm() < 0.03 * y.norm()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x, c_noise, label), y, atol=1e-5 * y.abs().max().item())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"depth .*0"):
        MLP((2,), depth=0)
    with pytest.raises(ValueError, match="batch of shape"):
        MLP((2,), width=8)(torch.randn(4, 3), torch.randn(4))
