"""What a classifier takes images for, counted by class and added up over processes."""

import pytest
import torch

from lightning_diff.metrics.agreement import Agreement, shares

NAMED = torch.tensor([0, 0, 1, 2, 2, 2, 0])
LABELS = torch.tensor([0, 1, 1, 2, 2, 0, 0])


def test_shares_by_class():
    counts = Agreement(4)
    counts.update(7, NAMED, LABELS)
    values = shares(counts.compute(), ["cat", "dog"])
    assert values.pop("label_agreement") == pytest.approx(5 / 7)
    agreement = {"label_agreement/cat": 2 / 3, "label_agreement/dog": 1 / 2, "label_agreement/2": 1.0}
    share = {"class_share/cat": 3 / 7, "class_share/dog": 1 / 7, "class_share/2": 3 / 7, "class_share/3": 0.0}
    assert values == pytest.approx(agreement | share)


def test_without_labels_there_are_shares_alone_and_without_a_classifier_nothing():
    counts = Agreement(3)
    counts.update(7, NAMED)
    assert list(shares(counts.compute())) == ["class_share/0", "class_share/1", "class_share/2"]
    bare = Agreement()
    bare.update(7)
    assert shares(bare.compute()) == {}
    assert int(bare.compute()["n"]) == 7


def test_uneven_processes_count_what_one_does(two_processes):
    def count(rank: int) -> dict[str, float]:
        counts = Agreement(4)
        for i in range(6) if rank else (6,):
            counts.update(1, NAMED[i : i + 1], LABELS[i : i + 1])
        return shares(counts.compute())

    alone = Agreement(4)
    alone.update(7, NAMED, LABELS)
    assert two_processes(count) == [shares(alone.compute())] * 2
