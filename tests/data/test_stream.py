import subprocess
import sys
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch

from lightning_diff.data import Augment, Data, Digits, ImageSet, Positions, Stream, loader
from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError


@dataclass(eq=False)
class Numbered(Data):
    """n grey 4x4 images; every pixel of image i is the byte i, its label i mod 3."""

    n: int = 10

    def load(self):
        i = torch.arange(self.n)
        return ImageSet(i.to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4), i % 3, "numbered"), None


def shown(batch):
    return ((batch["image"][:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


@pytest.mark.parametrize("start", [0, 24, 10**9 + 7])
def test_any_number_of_processes_and_micro_batches_shares_out_the_same_positions(start):
    for world in (1, 2, 4):
        for accumulation in (1, 2):
            ranks = [iter(Positions(24, r, world, accumulation, start)) for r in range(world)]
            for step in range(3):
                micros = [next(rank) for rank in ranks for _ in range(accumulation)]
                assert {len(m) for m in micros} == {24 // (world * accumulation)}
                expected = np.arange(24) + start + step * 24
                assert np.array_equal(np.sort(np.concatenate(micros)), expected)


def test_rank_r_takes_the_slots_that_the_rule_names():
    positions = list(islice(Positions(12, rank=1, world=2, accumulation=3, start=100), 6))
    for k, micro in enumerate(positions):
        step, a = divmod(k, 3)
        assert micro == [100 + 12 * step + j for j in range(12) if j % 6 == a * 2 + 1]


@pytest.mark.parametrize("augment", [None, Augment(probability=0.5)])
def test_an_example_does_not_depend_on_the_batch_it_is_drawn_in(augment):
    data = Digits(24, flip=True, augment=augment)
    whole = Stream(data, seed=3).__getitems__(np.arange(5000, 5024))
    for world, accumulation in [(2, 1), (4, 2), (8, 3)]:
        for rank in range(world):
            for micro in islice(Positions(24, rank, world, accumulation, 5000), accumulation):
                part = Stream(data, seed=3).__getitems__(micro)
                assert part.keys() == whole.keys()
                for key in part:
                    assert torch.equal(part[key], whole[key][np.array(micro) - 5000]), key


def test_each_seed_draws_its_own_examples():
    data = Digits(64)
    one, other = (Stream(data, seed).__getitems__(range(64)) for seed in (0, 1))
    for key in ("image", "u", "noise"):
        assert not torch.equal(one[key], other[key])


def test_every_epoch_shows_every_image_once_in_its_own_order():
    stream = Stream(Numbered(4, n=10), seed=0)
    epochs = [shown(stream.__getitems__(range(10 * e, 10 * e + 10))) for e in range(3)]
    assert all(sorted(order) == list(range(10)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@dataclass(eq=False)
class Drawing(Data):
    """Ten grey 2x2 images, each of a value that is drawn anew at each position."""

    def load(self):
        class Drawn(ImageSet):
            def take_at(self, indices, seed, positions):
                values = torch.from_numpy(rng.uniform(seed, "value", positions)).float()
                return values[:, None, None, None].expand(-1, *self.shape).clone(), self.label(indices)

        return Drawn(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10)), None


def test_examples_may_choose_by_seed_and_position_what_training_sees():
    stream = Stream(Drawing(4), seed=5)
    whole = stream.__getitems__(range(20))
    assert whole["image"][:, 0, 0, 0].tolist() == torch.from_numpy(rng.uniform(5, "value", range(20))).float().tolist()
    assert sorted(whole["label"][:10].tolist()) == list(range(10))
    again = Stream(Drawing(4), seed=5).__getitems__([17, 3])
    assert torch.equal(again["image"], whole["image"][[17, 3]])
    assert not stream.examples.take(np.arange(3))[0].add(1).any()  # what metrics read chooses nothing


def test_a_batch_may_straddle_epochs_and_go_back():
    stream = Stream(Numbered(4, n=10), seed=0)
    forty = shown(stream.__getitems__(range(40)))
    assert shown(stream.__getitems__(range(5, 35))) == forty[5:35]
    assert shown(Stream(Numbered(4, n=10), seed=0).__getitems__([39, 0, 17])) == [forty[39], forty[0], forty[17]]


@pytest.mark.parametrize("start", [0, 5])
def test_the_global_batch_holds_one_u_in_each_stratum(start):
    stream = Stream(Numbered(16), seed=0)
    for step in range(4):
        u = stream.__getitems__(np.arange(16) + start + 16 * step)["u"]
        assert sorted((u * 16).long().tolist()) == list(range(16))


def test_u_is_uniform_within_its_stratum_and_never_0_or_1():
    stream = Stream(Numbered(2, n=200), seed=0)
    u = stream.__getitems__(range(20_000))["u"]
    assert ((u > 0) & (u < 1)).all()
    within = (u * 2) % 1
    # Standard errors of mean and variance are 0.002 and 0.0005.
    assert abs(within.mean() - 0.5) < 0.01
    assert abs(within.var() - 1 / 12) < 0.003


def test_labels_go_with_their_images_and_can_be_left_out():
    batch = Stream(Numbered(30, n=10), seed=0).__getitems__(range(30))
    assert batch["label"].tolist() == [i % 3 for i in shown(batch)]
    unconditional = Numbered(30, n=10, conditional=False)
    assert "label" not in Stream(unconditional, seed=0).__getitems__(range(30))
    assert unconditional.facts()["num_classes"] == 0


def test_half_of_the_images_are_mirrored():
    plain, flipped = Digits(2000), Digits(2000, flip=True)
    a, b = (Stream(data, 0).__getitems__(range(2000))["image"] for data in (plain, flipped))
    same, mirrored = (a == b).flatten(1).all(1), (a.flip(-1) == b).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 900 < mirrored.sum() < 1100  # 4.5 standard deviations


@pytest.mark.whole
@pytest.mark.parametrize(("context", "processes"), [("fork", 2), ("spawn", 1)])
def test_loader_processes_change_nothing(context, processes):
    def read(workers):
        batches = loader(Digits(16, flip=True, augment=Augment(), workers=workers), seed=1, rank=1, world=2, start=64)
        batches.multiprocessing_context = context if workers else None
        return list(islice(batches, 4))

    state = torch.random.get_rng_state()
    for here, there in zip(read(0), read(processes), strict=True):
        assert here.keys() == there.keys()
        assert all(torch.equal(here[key], there[key]) for key in here)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_batch_size_that_does_not_divide_says_what_would():
    with pytest.raises(UserError, match=r"batch_size 30.*\b4\b.*\b8\b"):
        Positions(30, rank=0, world=4, accumulation=2)
    with pytest.raises(ValueError, match="rank=2"):
        Positions(32, rank=2, world=2)


@pytest.mark.whole
def test_a_loader_that_nobody_closed_does_not_keep_the_program_alive():
    program = (
        "import builtins; from lightning_diff.data import Digits; from lightning_diff.data.stream import loader;"
        "data = Digits(batch_size=16, workers=1); data.setup(); builtins.kept = iter(loader(data, 0)); next(builtins.kept);"
        "builtins.kept.source._shutdown_workers = lambda: None"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
