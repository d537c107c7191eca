import numpy as np
import pytest
import torch

from lightning_diff.data import Data, ImageSet
from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import classifier as module
from lightning_diff.metrics import feature_extractor
from lightning_diff.metrics.classifier import Classifier, accuracy, load_or_train


class Bare(Data):
    """Images without labels."""

    side = (8, 8)

    def load(self):
        pixels = torch.randint(
            0, 256, (64, 3, *self.side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
        )
        return ImageSet(pixels), None


class Oblong(Bare):
    side = (8, 12)


class Points(Bare):
    def load(self):
        return ImageSet(torch.randn(64, 2)), None


def test_it_knows_held_out_digits(digits, classifier):
    assert accuracy(classifier, digits.test) >= 0.98
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())


def test_the_cache_gives_the_same_network(digits, classifier, monkeypatch):
    monkeypatch.setattr(module, "train", lambda *args: pytest.fail("trained although it was cached"))
    again = load_or_train(digits, "classifier")
    assert again.hash == classifier.hash
    images = digits.test.images(np.arange(20))
    assert torch.equal(again(images), classifier(images))


def test_training_is_a_function_of_the_data_and_leaves_no_trace(digits, tmp_path, monkeypatch):
    """Another folder, another state of the generators, gradients off, half precision: the same network."""
    hashes = []
    for i in range(2):
        monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / str(i)))
        torch.manual_seed(i)
        before = torch.get_rng_state()
        with torch.inference_mode(i == 1), torch.autocast("cpu", torch.bfloat16, enabled=i == 1):
            hashes.append(load_or_train(digits, "classifier", steps=3).hash)
        assert torch.equal(torch.get_rng_state(), before)
    assert hashes[0] == hashes[1]
    assert load_or_train(digits, "classifier", steps=4).hash != hashes[0]
    assert [path.suffix for path in (tmp_path / "0").iterdir()] == [".safetensors"]


def test_a_broken_cache_file_is_trained_again(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path))
    first = load_or_train(digits, "classifier", steps=2)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="feature network again"):
        again = load_or_train(digits, "classifier", steps=2)
    assert again.hash == first.hash


def test_a_cache_that_cannot_be_written_costs_a_warning(digits, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "file" / "folder"))
    with pytest.warns(UserWarning, match="cannot be written"):
        load_or_train(digits, "classifier", steps=1)


def test_two_processes_get_one_network(digits, tmp_path, monkeypatch, two_processes):
    """The second has another cache: weights travel by the process group, so nothing has to be shared but that."""

    def load(rank: int) -> str:
        monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / f"cache {rank}"))
        return load_or_train(digits, "classifier", steps=2).hash

    first, second = two_processes(load)
    assert first == second
    assert not (tmp_path / "cache 1").exists()


def test_images_without_labels_are_told_by_their_rotation():
    data = Bare(batch_size=8)
    net = load_or_train(data, "rotation", steps=2)
    images = data.train.images(np.arange(5))
    assert net.name == "rotation"
    assert net.logits(net(images)).shape == (5, 4)


@pytest.mark.parametrize("side", [8, 16, 28, 32, 64])
def test_every_size_has_64_features(side):
    net = Classifier((3, side, side), 10).eval()
    assert net(torch.zeros(2, 3, side, side)).shape == (2, 64)
    assert net(torch.zeros(0, 3, side, side)).shape == (0, 64)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("classifier", Bare(8), "labels.* Bare .*'rotation'"),
        ("rotation", Oblong(8), "square images"),
        ("classifier", Points(8), "pixels"),
    ],
)
def test_what_a_feature_space_cannot_take_is_said(name, data, message):
    with pytest.raises(UserError, match=message):
        feature_extractor(name, data)


def test_points_are_measured_as_they_are():
    space = feature_extractor(None, Points(8))
    assert (space.name, space.dim) == ("pixels", 2)
