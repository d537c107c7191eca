from dataclasses import dataclass
from typing import ClassVar

import pytest

from lightning_diff.learning_rate import Constant, Cosine, InverseSqrt, over, parts


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


RELATIVE = [
    Constant(0.25),
    Cosine(),
    Cosine(warmup=0.25),
    Cosine(0.5, warmup=0.25, floor=0.1),
    InverseSqrt(0.5, warmup=0.25),
]


@pytest.mark.parametrize("schedule", RELATIVE, ids=str)
def test_in_parts_of_the_run_the_curve_is_the_same_at_every_length(schedule):
    short, long = over(schedule, 1000), over(schedule, 64_000)
    assert parts(short) == parts(long) == {}
    for share in (0.0, 0.1, 0.25, 0.5, 0.7, 1.0):
        assert short(int(1000 * share)) == pytest.approx(long(int(64_000 * share)))


@pytest.mark.parametrize("schedule", RELATIVE, ids=str)
def test_parts_of_an_unknown_run_have_no_rate(schedule):
    with pytest.raises(ValueError, match=r"part of a run .*over"):
        schedule(10)


def test_numbers_of_images_stay_and_a_share_is_one_image_at_least():
    whole = Cosine(500, warmup=100)
    assert over(whole, 2000) is whole
    assert over(Cosine(warmup=100), 2000) == Cosine(2000, warmup=100)
    assert over(Cosine(500, warmup=0.1), 2000) == Cosine(500, warmup=200)
    assert over(Constant(0.001), 10) == Constant(1)


def test_a_cosine_ends_after_its_warm_up_however_short_the_run():
    cut = over(Cosine(warmup=10_000), 2_560)
    assert cut == Cosine(10_001, warmup=10_000)
    assert [cut(images) for images in (1_280, 2_560)] == [0.128, 0.256]


def test_a_schedule_of_ones_own_may_be_in_parts_too():
    @dataclass(frozen=True)
    class Steps:
        OF_RUN: ClassVar = ("drop",)
        drop: float = 0.5

        def __call__(self, images: int) -> float:
            return 1.0 if images < self.drop else 0.1

    assert over(Steps(), 1000).drop == 500
    assert over(lambda images: 1.0, 1000)(7) == 1.0


@pytest.mark.parametrize("length", [-1, -0.5, 1.0, 1.5, float("nan"), float("inf")])
def test_what_is_neither_images_nor_a_share_is_refused(length):
    for kind in (Constant, lambda warmup: Cosine(1000, warmup=warmup), lambda total: Cosine(total)):
        with pytest.raises(ValueError, match=r"images, a whole number .*share"):
            kind(length)


@pytest.mark.parametrize(("total", "warmup"), [(0, 0), (10, 10), (10, 20), (0.1, 0.1), (0.1, 0.2)])
def test_a_warm_up_that_leaves_nothing_of_the_cosine_is_refused(total, warmup):
    with pytest.raises(ValueError, match="warmup < total"):
        Cosine(total, warmup=warmup)
