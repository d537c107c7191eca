import sys

import numpy as np
import pytest
import torch

from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import Protocol, Reference, evaluate

pytestmark = pytest.mark.usefixtures("classifier")
SPACE = "classifier"


@pytest.fixture(scope="module")
def reference(digits, classifier):
    return Reference(digits)


def _all(images):
    index = np.arange(len(images))
    return images.images(index), images.label(index)


def test_every_row_carries_its_protocol_and_has_a_floor(digits, reference):
    images, labels = _all(digits.test)
    protocol = Protocol(seed=3, solver="heun", steps=18, nfe=35, ema="half-life 0.1")
    rows = evaluate(images[:200], reference, labels[:200], protocol)
    figures = {row.metric: row for row in rows}
    spaced = [f"{m}_{SPACE}" for m in ("frechet", "kernel", "precision", "recall", "density", "coverage")]
    names = [*spaced, "memorisation", "nearest_train", "label_agreement"]
    assert list(figures) == names + [f"{name}_floor" for name in names]
    for name in names:
        assert figures[name].protocol == Protocol(200, 3, "heun", 18, 35, "half-life 0.1", reference.hash)
        assert figures[f"{name}_floor"].protocol == Protocol(n=200, reference=reference.hash)
    columns = ["metric", "value", "n", "seed", "solver", "steps", "nfe", "ema", "reference"]
    assert list(rows[0].record()) == columns


def test_held_out_images_score_the_floor(digits, reference):
    images, labels = _all(digits.test)
    rows = {row.metric: row.value for row in evaluate(images, reference, labels)}
    for name in [name for name in rows if not name.endswith("_floor")]:
        assert rows[name] == pytest.approx(rows[f"{name}_floor"], rel=1e-6, abs=1e-9), name
    assert rows["label_agreement"] >= 0.98
    assert rows["memorisation"] < 0.02


def test_each_fault_shows_where_it_should(digits, reference):
    images, labels = _all(digits.test)
    floor = reference.floor(len(images))[1]

    def measure(x, y=None):
        return reference.measure(x, y)[1]

    noisy = measure(images + 0.5 * torch.randn(images.shape))
    assert noisy["frechet_classifier"] > 5 * floor["frechet_classifier"]
    assert noisy["precision_classifier"] < floor["precision_classifier"]
    five = measure(images[labels < 5])
    assert five["frechet_classifier"] > 5 * floor["frechet_classifier"]
    assert five["recall_classifier"] < 0.7 * floor["recall_classifier"]
    assert five["precision_classifier"] > floor["precision_classifier"] - 0.1
    training, classes = _all(digits.train)
    every_class_its_share = classes.argsort(stable=True)[torch.arange(500) * len(training) // 500]
    copies = measure(training[every_class_its_share])
    assert copies["memorisation"] == 1
    assert copies["nearest_train"] == 0
    assert copies["frechet_classifier"] < floor["frechet_classifier"]  # which is why memorisation is measured
    wrong = measure(images, (labels + 1) % 10)
    assert wrong["label_agreement"] < 0.02


def test_every_stage_of_a_measurement_is_shown_and_counts_to_its_end(digits, monkeypatch):
    counted = {}

    def each(items, name, total, unit, *, shown):
        for done, item in enumerate(items, 1):
            counted[name] = (done, total, shown)
            yield item

    monkeypatch.setattr(sys.modules[Reference.__module__], "each", each)
    reference = Reference(digits, "pixels", limit=130, batch=50)
    evaluate(digits.test.images(np.arange(120)), reference)
    assert counted == {
        "measuring images": (3, 3, True),
        "measuring real images": (3, 3, True),
        "measuring held-out images": (3, 3, True),
        "comparing with real images": (4, 4, True),
    }


def test_the_reference_hash_names_the_real_images_and_the_space(digits, reference):
    others = [Reference(digits, "pixels"), Reference(digits, limit=1000)]
    assert len({reference.hash, *(other.hash for other in others)}) == 3
    assert Reference(digits).hash == reference.hash


def test_the_labels_and_the_generators_are_left_alone(digits, reference):
    before = torch.get_rng_state()
    rows = evaluate(_all(digits.test)[0][:100], reference)
    assert torch.equal(torch.get_rng_state(), before)
    assert "label_agreement" not in {row.metric for row in rows}


def test_too_few_images_is_an_error_in_words(digits, reference):
    with pytest.raises(UserError, match=r"64 generated images .* at least 65"):
        evaluate(_all(digits.test)[0][:64], reference)


@pytest.mark.parametrize("on_second", [0, 130])
def test_two_processes_measure_what_one_does(digits, two_processes, on_second):
    images, labels = _all(digits.test)
    images, labels = images[:200], labels[:200]
    alone = evaluate(images, Reference(digits), labels)

    def measure(rank: int) -> list[tuple[str, float, int]]:
        share = (slice(0, 200 - on_second), slice(200 - on_second, 200))[rank]
        rows = evaluate(images[share], Reference(digits, batch=90), labels[share])
        return [(row.metric, row.value, row.protocol.n) for row in rows]

    for results in two_processes(measure):
        for row, (metric, value, n) in zip(alone, results, strict=True):
            assert (metric, n) == (row.metric, row.protocol.n)
            assert value == pytest.approx(row.value, rel=1e-5, abs=1e-7), metric


def test_beyond_the_reference_recall_sees_as_many_of_both(digits):
    """More generated images than real ones would cover more of them, whatever they are like."""
    images, _ = _all(digits.train)
    limited = Reference(digits, limit=300)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    more = images[order[:900]]
    found, first = (dict(limited.measure(part)[1]) for part in (more, more[:300]))
    for name in ("recall", "coverage", "precision", "density", "kernel"):
        assert found[f"{name}_{SPACE}"] == first[f"{name}_{SPACE}"]
    assert found[f"frechet_{SPACE}"] != first[f"frechet_{SPACE}"]  # which takes all


@pytest.mark.parametrize(
    ("counts", "most", "kept"),
    [
        ([100, 100], 60, [30, 30]),
        ([101, 100], 61, [31, 30]),  # of images dealt out one by one, the first 61
        ([200, 0], 60, [60, 0]),
        ([10, 190], 60, [10, 50]),
        ([20, 20], 60, [20, 20]),
        ([70], 60, [60]),
    ],
)
def test_every_process_gives_its_part_of_the_first_images(monkeypatch, counts, most, kept):
    module = sys.modules["lightning_diff.metrics.evaluate"]
    monkeypatch.setattr(module, "from_all", lambda own: torch.tensor(counts))
    for rank, count in enumerate(counts):
        monkeypatch.setattr(module, "rank_and_world", lambda rank=rank: (rank, len(counts)))
        assert module._share_of_most(count, most, torch.device("cpu")) == kept[rank]
