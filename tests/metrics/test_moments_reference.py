"""Against a file of moments the Fréchet distance is what it is against the images that the moments are of."""

import numpy as np
import pytest
import torch
from messages import tells

from lightning_diff.artifacts.feature_moments import load_moments, save_moments
from lightning_diff.data import Toy
from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import MomentsReference, Reference, evaluate, features
from lightning_diff.metrics.features import refuse_unfit

pytestmark = pytest.mark.usefixtures("classifier")


@pytest.fixture(scope="module")
def reference(digits, classifier):
    return Reference(digits)


@pytest.fixture(scope="module")
def file(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("moments") / "digits.npz"
    save_moments(path, reference.moments())
    return path


def some(digits, n=150):
    index = np.arange(n)
    return digits.test.images(index), digits.test.label(index)


def test_the_same_distance_and_the_same_floor(digits, reference, file):
    moments = load_moments(file)["classifier"]
    assert (moments.n, moments.network) == (len(digits.train), reference.extractor.hash)
    images, labels = some(digits)
    whole = {row.metric: row.value for row in evaluate(images, reference, labels, per_class=True)}
    by_file = MomentsReference(moments, file, digits, "classifier")
    alone = {row.metric: row.value for row in evaluate(images, by_file, labels, per_class=True)}
    assert {name.partition("/")[0] for name in alone if not name.endswith("_floor")} == {
        "frechet_classifier",
        "label_agreement",
        "class_share",
    }
    for name, value in alone.items():
        assert value == pytest.approx(whole[name], rel=1e-8, abs=1e-9), name


def test_the_hash_is_of_the_moments_and_the_space(digits, file):
    moments = load_moments(file)["classifier"]
    first = MomentsReference(moments, file, digits, "classifier").hash
    assert MomentsReference(moments, "elsewhere", digits, "classifier").hash == first
    moments.mean[0] += 1e-3
    assert MomentsReference(moments, file, digits, "classifier").hash != first


def test_moments_of_another_network_are_refused(digits, file):
    moments = load_moments(file)["classifier"]
    object.__setattr__(moments, "network", "0123456789ab")
    with pytest.raises(UserError) as error:
        MomentsReference(moments, file, digits, "classifier")
    assert tells(str(error.value), f"{file} ... 0123456789ab ... --write-reference")


def test_two_processes_write_the_moments_of_one(digits, reference, two_processes):
    alone = reference.moments()
    for mean, covariance, n in two_processes(lambda rank: _parts(Reference(digits, batch=90).moments())):
        torch.testing.assert_close(mean, alone.mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(covariance, alone.covariance, rtol=1e-9, atol=1e-9)
        assert n == alone.n


def _parts(moments):
    return moments.mean, moments.covariance, moments.n


def test_pictures_are_needed_where_a_network_looks_at_them(monkeypatch):
    monkeypatch.setattr(features, "load_or_train", lambda *_: pytest.fail("trained"))
    points = Toy(batch_size=1, n=64)
    for name in ("classifier", "rotation", "fid_inception", "dinov2"):
        with pytest.raises(UserError) as error:
            refuse_unfit("Evaluate", name, points, 60)
        assert tells(str(error.value), f"Evaluate: ... '{name}' ... pictures ... (2,) ... 'pixels'")
