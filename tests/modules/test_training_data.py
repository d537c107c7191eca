"""The images of a resumed run are those of its checkpoint, or both are described."""

import pytest

from lightning_diff import TrainingData
from lightning_diff.data import Toy
from lightning_diff.foundation.errors import UserError


def test_other_images_than_the_checkpoints_are_refused_with_both_in_words():
    saved = TrainingData(Toy(8, n=64), seed=0).state_dict()
    TrainingData(Toy(8, n=64), seed=0).load_state_dict(saved)
    other = TrainingData(Toy(8, n=80), seed=0)
    with pytest.raises(UserError, match=r"64 examples.*80 examples.*resume=never"):
        other.load_state_dict(saved)
    with pytest.raises(UserError, match="80 examples"):  # of a checkpoint of before
        other.load_state_dict({"fingerprint": saved["fingerprint"]})
