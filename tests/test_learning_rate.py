import pytest

from lightning_diff.learning_rate import Constant, Cosine, InverseSqrt


@pytest.mark.parametrize("schedule", [Constant(100), Cosine(1000, warmup=100), InverseSqrt(500, warmup=100)])
def test_warm_up_is_linear_and_never_exceeds_one(schedule):
    assert schedule(0) == 0
    assert schedule(50) == pytest.approx(0.5)
    assert all(0 <= schedule(images) <= 1 for images in range(0, 3000, 50))


def test_each_curve_at_known_places():
    assert Constant()(0) == 1
    cosine = Cosine(1000, warmup=200, floor=0.1)
    assert cosine(600) == pytest.approx(0.55)
    assert cosine(1000) == cosine(5000) == pytest.approx(0.1)
    assert InverseSqrt(100)(400) == 0.5
