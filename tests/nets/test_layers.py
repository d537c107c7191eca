import math

import pytest
import torch

from lightning_diff.nets.layers import (
    Attention,
    Conditioning,
    FourierEmbedding,
    GroupNorm,
    Modulation,
    PositionalEmbedding,
)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 1), (10, 2), (32, 8), (36, 9), (128, 32), (200, 25)])
def test_group_norm_takes_the_most_groups_that_divide_the_channels(channels, groups):
    norm = GroupNorm(channels)
    assert norm.groups == groups
    x = 3 + 2 * torch.randn(2, channels, 4, 4)
    rows = norm(x).reshape(2, groups, -1)
    assert torch.allclose(rows.mean(-1), torch.zeros(2, groups), atol=1e-5)
    assert torch.allclose(rows.var(-1, correction=0), torch.ones(2, groups), atol=1e-4)


def test_group_norm_keeps_a_narrow_dtype_under_autocast_and_its_statistics_exact():
    norm = GroupNorm(8)
    x = (100 + torch.randn(2, 8, 16, 16)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), norm(x.float()), atol=0.02)


def test_positional_embedding_turns_at_most_one_radian_per_unit():
    embed, c_noise, h = PositionalEmbedding(16).double(), torch.linspace(-2, 2, 9, dtype=torch.float64), 1e-6
    slope = (embed(c_noise + h) - embed(c_noise - h)) / (2 * h)
    assert slope.abs().max() <= 1 + 1e-9
    assert torch.allclose(
        embed(c_noise)[:, :8] ** 2 + embed(c_noise)[:, 8:] ** 2, torch.ones(9, 8, dtype=torch.float64)
    )


def test_fourier_frequencies_have_the_given_scale_and_are_saved():
    embed = FourierEmbedding(20_000, scale=3.0)
    assert embed.freqs.std().item() == pytest.approx(3.0, rel=0.05)
    assert "freqs" in embed.state_dict()


def test_an_odd_embedding_is_refused():
    with pytest.raises(ValueError, match="even, got 7"):
        PositionalEmbedding(7)


def test_no_label_the_last_value_and_none_are_the_same():
    condition = Conditioning(8, 16, num_classes=3)
    torch.nn.init.normal_(condition.label.bias)
    c_noise = torch.randn(4)
    dropped = condition(c_noise, torch.full((4,), 3))
    assert torch.equal(dropped, condition(c_noise, None))
    for label in range(3):
        assert not torch.allclose(condition(c_noise, torch.full((4,), label)), dropped)
    mixed = condition(c_noise, torch.tensor([0, 3, 1, 3]))
    assert torch.allclose(mixed[[1, 3]], dropped[[1, 3]])


def test_an_unconditional_embedding_ignores_labels():
    condition = Conditioning(8, 16)
    c_noise = torch.randn(2)
    assert torch.equal(condition(c_noise, torch.tensor([0, 5])), condition(c_noise))


def test_a_label_out_of_range_is_an_error():
    with pytest.raises(RuntimeError, match="num_classes"):
        Conditioning(8, 16, num_classes=3)(torch.randn(1), torch.tensor([4]))


def test_no_augmentation_is_the_zero_vector():
    condition = Conditioning(8, 16, augment_dim=5)
    c_noise = torch.randn(3)
    assert torch.allclose(condition(c_noise, None, torch.zeros(3, 5)), condition(c_noise))
    assert not torch.allclose(condition(c_noise, None, torch.ones(3, 5)), condition(c_noise))


def test_the_embedding_is_float32_under_autocast():
    condition, c_noise = Conditioning(8, 16, num_classes=2), torch.randn(3)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = condition(c_noise, torch.tensor([0, 1, 2]))
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, condition(c_noise, torch.tensor([0, 1, 2])))


def test_double_normalisation_bounds_scale_and_shift():
    modulation = Modulation(16, 64, "double")
    for size in (1e-2, 1e3):
        scale, shift = modulation.scale_and_shift(size * torch.randn(5, 16))
        assert torch.allclose(scale.square().mean(-1), torch.ones(5), atol=1e-2)
        assert torch.allclose(shift.square().mean(-1), torch.ones(5), atol=1e-2)


def test_adaptive_modulation_without_gain_is_the_identity():
    x = torch.randn(2, 7, 12)
    assert torch.equal(Modulation(4, 12, "adaptive", gain=0.0)(x, torch.randn(2, 4)), x)


def test_modulation_has_two_kinds():
    with pytest.raises(ValueError, match="adaptive or double"):
        Modulation(4, 12, "additive")


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_softmax_and_does_not_see_the_order_of_tokens(heads):
    attend, x = Attention(16, heads).double(), torch.randn(2, 9, 16, dtype=torch.float64)
    q, k, v = attend.qkv(x).chunk(3, -1)
    out = []
    for part in torch.arange(16).chunk(heads):
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(len(part)), -1)
        out.append(weights @ v[..., part])
    assert torch.allclose(attend(x), attend.proj(torch.cat(out, -1)))
    order = torch.randperm(9)
    assert torch.allclose(attend(x[:, order]), attend(x)[:, order])


def test_normalised_queries_and_keys_do_not_depend_on_their_size():
    attend, x = Attention(16, 2, qk_norm=True), torch.randn(2, 9, 16)
    before = attend(x)
    with torch.no_grad():
        attend.qkv.weight[:32] *= 100
    assert torch.allclose(attend(x), before, atol=1e-5)


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match=r"heads .*16 channels.* 3"):
        Attention(16, 3)
