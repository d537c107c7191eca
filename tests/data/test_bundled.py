"""scikit-learn's files are those that scikit-learn reads, and a scikit-learn without them is a sentence."""

import numpy as np
import pytest
import torch
from messages import tells

from lightning_diff.data import Digits, bundled
from lightning_diff.foundation.errors import UserError


def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    bunch, data = load_digits(), Digits(8)
    ours = torch.cat([data.train.pixels, data.test.pixels]).flatten(1).numpy()
    theirs = np.round(bunch.data * (255 / 16)).astype(np.uint8)
    labelled = [
        sorted(map(tuple, np.c_[pixels, labels].tolist()))
        for pixels, labels in ((ours, torch.cat([data.train.labels, data.test.labels]).numpy()), (theirs, bunch.target))
    ]
    assert labelled[0] == labelled[1]


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UserError) as error:
        bundled.bundled("data", "letters.csv.gz")
    assert tells(str(error.value), "scikit-learn ... datasets/data/letters.csv.gz ...")
