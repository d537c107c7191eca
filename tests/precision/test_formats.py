"""Rounding against brute force in plain Python: every code of the formats, ties, saturation, whole matrices."""

import math
import struct
from itertools import pairwise

import pytest
import torch

from lightning_diff.precision import formats, fp8_round, int8_round, nvfp4_round

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def e4m3_value(code):
    """The number that a byte stands for, by the format's definition; NaN at S.1111.111."""
    sign, exponent, mantissa = -1 if code & 128 else 1, (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


E4M3 = [e4m3_value(code) for code in range(127)]  # not negative, in order of size


def nearest(value, codes):
    """Ties to the even code; beyond the largest, the largest."""
    *_, best = min((abs(abs(value) - size), code % 2, size) for code, size in enumerate(codes))
    return math.copysign(best, value)


def f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def nvfp4_by_hand(matrix):
    """Every float32 operation of the definition, one number at a time."""
    scale = f32(max(abs(v) for row in matrix for v in row) / 2688)
    result = []
    for row in matrix:
        out = []
        for start in range(0, len(row), 16):
            block = row[start : start + 16]
            ratio = f32(f32(max(map(abs, block)) / 6) / scale)
            s = nearest(min(max(ratio, 2.0**-6), 448.0), E4M3)
            inverse = f32(f32(1 / scale) / s)
            out += [f32(nearest(f32(v * inverse), E2M1) * f32(scale * s)) for v in block]
        result.append(out)
    return result


def test_all_codes_of_e4m3_are_fixed_points():
    codes = torch.arange(256, dtype=torch.uint8)
    by_torch, by_definition = codes.view(torch.float8_e4m3fn).float(), torch.tensor([e4m3_value(c) for c in range(256)])
    assert torch.equal(by_torch.isnan(), by_definition.isnan())
    finite = by_definition[~by_definition.isnan()]
    assert len(finite) == 254
    assert torch.equal(by_torch[~by_torch.isnan()], finite)
    assert torch.equal(formats.e4m3_round(finite), finite)


def test_e4m3_is_the_nearest_code_between_all_neighbours():
    between = [a + (b - a) * f for a, b in pairwise(E4M3) for f in (0.25, 0.499, 0.5, 0.501, 0.75)]
    x = torch.tensor(between + [-v for v in between] + [449.0, 1e9, -1e9])
    assert formats.e4m3_round(x).tolist() == [nearest(v, E4M3) for v in x.tolist()]


def test_e2m1_is_the_nearest_of_its_fifteen_values():
    x = torch.cat([torch.linspace(-7, 7, 2801), torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -5.0, 1e9, -1e9])])
    assert formats.e2m1_round(x).tolist() == [nearest(v, E2M1) for v in x.tolist()]
    assert len(formats.e2m1_round(x).unique()) == 15


@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_nvfp4_of_a_matrix_is_the_definition_number_by_number(spread):
    """With a wide spread many blocks are clamped at E4M3's smallest normal number, and the last block is short."""
    x = torch.randn(12, 88) * torch.exp(spread * torch.randn(12, 1))
    assert nvfp4_round(x).tolist() == nvfp4_by_hand(x.tolist())


def test_small_blocks_next_to_a_large_one_are_clamped_and_not_lost_in_a_division():
    x = torch.full((2, 32), 1e-6)
    x[0, 0] = 1e3
    x[1, :16] = 0
    result = nvfp4_round(x)
    assert result.isfinite().all()
    assert result[0, 0] == pytest.approx(1e3, rel=1e-6)
    assert not result[1].any()


@pytest.mark.parametrize("rounded", [nvfp4_round, fp8_round, int8_round])
def test_rounding_twice_is_rounding_once(rounded):
    """Up to the last bit of the float32 scale; where that is a power of two, exactly."""
    x = torch.randn(64, 96)
    once = rounded(x)
    assert torch.allclose(rounded(once), once, rtol=1e-6, atol=0)
    largest = {nvfp4_round: 2688.0, fp8_round: 448.0, int8_round: 127.0}[rounded]
    x[:, 0] = largest / 64
    x = x.clamp(-largest / 64, largest / 64)
    once = rounded(x)
    assert torch.equal(rounded(once), once)


@pytest.mark.parametrize("rounded", [nvfp4_round, fp8_round, int8_round])
def test_the_sign_and_powers_of_two_commute_with_rounding(rounded):
    x = torch.randn(8, 64)
    assert torch.equal(rounded(-x), -rounded(x))
    assert torch.equal(rounded(x * 2.0**-12), rounded(x) * 2.0**-12)


@pytest.mark.parametrize("rounded", [nvfp4_round, fp8_round, int8_round])
def test_zeros_stay_zeros_and_dtypes_stay_themselves(rounded):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.zeros(4, 32, dtype=dtype)
        assert torch.equal(rounded(x), x)
        assert rounded(torch.randn(4, 32).to(dtype)).dtype == dtype
    assert rounded(torch.zeros(0, 32)).shape == (0, 32)


def test_fp8_and_int8_rows_by_hand():
    x = torch.randn(6, 40) * torch.logspace(-3, 3, 6)[:, None]
    for row, by_fp8, by_int8 in zip(x.tolist(), fp8_round(x).tolist(), int8_round(x).tolist(), strict=True):
        scale = f32(max(map(abs, row)) / 448)
        assert by_fp8 == [f32(nearest(f32(v / scale), E4M3) * scale) for v in row]
        scale = f32(max(map(abs, row)) / 127)
        assert by_int8 == [f32(round(f32(v / scale)) * scale) for v in row]


def test_a_given_largest_magnitude_sets_the_scale_of_its_part():
    """Two samples rounded together with a scale each are what they are alone."""
    x = torch.randn(2, 5, 48) * torch.tensor([1.0, 100.0]).reshape(2, 1, 1)
    together = nvfp4_round(x, formats.sample_amax(x))
    assert torch.equal(together, torch.stack([nvfp4_round(each) for each in x]))
    assert not torch.equal(together, nvfp4_round(x))


@pytest.mark.parametrize("shape", [(64, 128), (3, 16), (256, 1024)])
def test_nvfp4_is_torchao_s_bit_for_bit(shape):
    nvfp4_tensor = torchao("torchao.prototype.mx_formats.nvfp4_tensor")
    for spread in (0.0, 4.0):
        x = torch.randn(shape) * torch.exp(spread * torch.randn(shape[0], 1))
        scale = nvfp4_tensor.per_tensor_amax_to_scale(x.abs().amax())
        theirs = nvfp4_tensor.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).dequantize()
        assert torch.equal(nvfp4_round(x), theirs)
        half = x.bfloat16()
        scale = nvfp4_tensor.per_tensor_amax_to_scale(half.abs().amax())
        theirs = nvfp4_tensor.NVFP4Tensor.to_nvfp4(half, per_tensor_scale=scale).dequantize()
        assert torch.equal(nvfp4_round(half), theirs)


@pytest.mark.parametrize("shape", [(64, 128), (3, 16), (256, 1024)])
def test_row_wise_fp8_is_torchao_s_bit_for_bit(shape):
    quantization = torchao("torchao.quantization")
    x = torch.randn(shape) * torch.exp(4 * torch.randn(shape[0], 1))
    theirs = quantization.Float8Tensor.from_hp(x, granularity=quantization.PerRow()).dequantize()
    assert torch.equal(fp8_round(x), theirs)


@pytest.fixture(autouse=True)
def _quiet_torchao(recwarn):
    """Its import complains of binaries for other machines."""


def torchao(name):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)
