"""Shapes are checked while tests run, in the first calls of each test."""

import checked_types
import jaxtyping
import pytest
import torch

from lightning_diff import noise


def test_a_wrong_shape_or_type_is_an_error_until_the_test_has_had_its_checks():
    wrong = torch.ones(3, dtype=torch.int64)
    with pytest.raises(jaxtyping.TypeCheckError):
        noise.sigma_to_log_snr(wrong)
    for _ in range(checked_types.MOST):
        noise.sigma_to_log_snr(torch.ones(3))
    noise.sigma_to_log_snr(wrong.double())
    assert jaxtyping.config.jaxtyping_disable


def test_every_test_begins_with_a_new_count():
    assert not jaxtyping.config.jaxtyping_disable
    with pytest.raises(jaxtyping.TypeCheckError):
        noise.sigma_to_log_snr("three")
