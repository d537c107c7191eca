import jaxtyping
import pytest
import torch

from lightning_diff.nets import DiT

SMALL = {"width": 32, "depth": 2, "heads": 4}


@pytest.fixture
def without_annotation_checks():
    """Dynamo cannot trace the checkers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_the_default_is_dit_s():
    with torch.device("meta"):
        net = DiT((4, 32, 32), num_classes=1000)
    # the paper's table 1: 33 million; its label table and ours differ by the embedding's width
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(33e6, rel=0.02)


@pytest.mark.parametrize("norm", ["adaptive", "double"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12)])
def test_the_network_starts_at_zero_and_every_block_as_the_identity(norm, shape):
    net = DiT(shape, 3, 5, norm=norm, qk_norm=True, **SMALL)
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda _module, args, y: seen.append(torch.equal(args[0], y)))
    x = torch.randn(4, *shape)
    y = net(x, torch.randn(4), torch.tensor([0, 1, 2, 3]), torch.randn(4, 5))
    assert torch.equal(y, torch.zeros_like(x))
    assert seen == [True, True]


def test_a_patch_knows_where_it_is():
    """Without positions a transformer commutes with moving patches; with them it must not."""
    net = awake(DiT((1, 8, 8), **SMALL))
    x, c_noise = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    moved = net(x.roll(2, dims=3), c_noise)
    assert not torch.allclose(moved, net(x, c_noise).roll(2, dims=3))
    net.positions.zero_()
    assert torch.allclose(net(x.roll(2, dims=3), c_noise), net(x, c_noise).roll(2, dims=3))


def test_labels_and_augmentation_reach_the_output():
    net = awake(DiT((1, 8, 8), 3, 5, **SMALL))
    x, c_noise = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    base = net(x, c_noise)
    assert not torch.allclose(net(x, c_noise + 1), base)
    assert not torch.allclose(net(x, c_noise, torch.tensor([1, 1])), base)
    assert not torch.allclose(net(x, c_noise, None, torch.ones(2, 5).double()), base)
    assert torch.equal(net(x, c_noise, torch.tensor([3, 3])), base)


@pytest.mark.usefixtures("without_annotation_checks")
def test_autocast_and_compilation_give_the_same_function():
    net = awake(DiT((1, 8, 8), 3, **SMALL)).float()
    x, c_noise, label = torch.randn(2, 1, 8, 8), torch.randn(2), torch.tensor([0, 3])
    y = net(x, c_noise, label)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(x, c_noise, label)
    assert narrow.dtype == torch.float32
    assert (narrow - y).norm() < 0.03 * y.norm()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x, c_noise, label), y, atol=1e-5 * y.abs().max().item())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": (1, 8, 9)}, "patch_size .*8x9.* 2"),
        ({"shape": (8, 8)}, "channels, height, width"),
        ({"shape": (1, 8, 8), "width": 30}, "divisible by 4"),
        ({"shape": (1, 8, 8), "width": 32, "heads": 5}, "heads must divide"),
    ],
)
def test_impossible_sizes_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        DiT(**arguments)


def test_a_batch_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="batch of shape"):
        DiT((1, 8, 8), **SMALL)(torch.randn(2, 3, 8, 8), torch.randn(2))


def awake(net):
    """In float64, with weights that let every part count."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5 if p.ndim > 1 else 0.5)
    return net.double()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_neither_output_nor_gradients_and_keeps_less(dropout):
    nets = [awake(DiT((1, 8, 8), 3, dropout=dropout, checkpointing=on, **SMALL)) for on in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    x, c_noise, label = torch.randn(4, 1, 8, 8).double(), torch.randn(4).double(), torch.tensor([0, 1, 2, 3])
    outputs, kept = [], []
    for net in nets:
        torch.manual_seed(1)  # the same masks
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            outputs.append(net(x, c_noise, label))
        outputs[-1].square().sum().backward()
        kept.append(sum(saved))
    assert torch.equal(*outputs)
    assert kept[1] < kept[0] / 3
    for (name, plain), again in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(plain.grad, again.grad), name
    with torch.no_grad():
        assert torch.equal(*(net.eval()(x, c_noise, label) for net in nets))
