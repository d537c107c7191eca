"""Files of moments: EDM's .npz and EDM2's pickle are read as they write them, ours as theirs read them, and no code is run."""

import pickle

import numpy as np
import pytest
import torch
from messages import tells

from lightning_diff.artifacts.feature_moments import FeatureMoments, load_moments, save_moments
from lightning_diff.foundation.errors import UserError

FEATURES = np.random.RandomState(0).normal(size=(40, 5))
MU, SIGMA = FEATURES.mean(0), np.cov(FEATURES, rowvar=False)


def is_right(moments: FeatureMoments, rtol: float = 0.0) -> bool:
    pairs = ((moments.mean, MU), (moments.covariance, SIGMA))
    return all(torch.allclose(ours, torch.from_numpy(theirs), rtol=rtol, atol=rtol) for ours, theirs in pairs)


def test_edm_s_npz_does_not_say_of_which_features(tmp_path):
    np.savez(tmp_path / "ref.npz", mu=MU, sigma=SIGMA)
    (moments,) = (found := load_moments(tmp_path / "ref.npz")).values()
    assert list(found) == [""]
    assert is_right(moments)
    assert (moments.space, moments.network, moments.n, moments.dim) == (None, None, None, 5)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("kind", [np.float64, ">f8", np.float32, np.asfortranarray])
def test_edm2_s_pickle_whatever_the_arrays_look_like(tmp_path, protocol, kind):
    sigma = kind(SIGMA) if kind is np.asfortranarray else SIGMA.astype(kind)
    content = {"num_images": 40, "fid": {"mu": MU, "sigma": SIGMA}, "fd_dinov2": {"mu": MU, "sigma": sigma}}
    (tmp_path / "ref.pkl").write_bytes(pickle.dumps(content, protocol))
    found = load_moments(tmp_path / "ref.pkl")
    assert list(found) == ["fid_inception", "dinov2"]
    assert all(is_right(moments, rtol=1e-6) for moments in found.values())
    assert is_right(found["fid_inception"])
    assert {moments.n for moments in found.values()} == {40}


def test_what_is_written_is_what_others_read_and_says_more_to_ours(tmp_path):
    moments = FeatureMoments(torch.from_numpy(MU), torch.from_numpy(SIGMA), "dinov2", "abc", 40)
    save_moments(tmp_path / "ref.npz", moments)
    save_moments(tmp_path / "ref.pkl", moments)
    with np.load(tmp_path / "ref.npz") as theirs:
        assert np.array_equal(theirs["mu"], MU)
        assert np.array_equal(theirs["sigma"], SIGMA)
    theirs = pickle.loads((tmp_path / "ref.pkl").read_bytes())
    assert np.array_equal(theirs["fd_dinov2"]["sigma"], SIGMA)
    for name, network in (("ref.npz", "abc"), ("ref.pkl", None)):
        ours = load_moments(tmp_path / name)["dinov2"]
        assert is_right(ours)
        assert (ours.space, ours.network, ours.n) == ("dinov2", network, 40)


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("the reader ran what the file names",))


def npz(**arrays):
    def write(path):
        np.savez(path.with_suffix(".npz"), **arrays)
        return path.with_suffix(".npz")

    return write


def pkl(content):
    def write(path):
        path.with_suffix(".pkl").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        return path.with_suffix(".pkl")

    return write


@pytest.mark.parametrize(
    ("write", "facts"),
    [
        (npz(mu=MU), "... lacks sigma ... mu"),
        (npz(arr_0=MU, arr_1=MU), "... lacks mu and sigma ... --images"),
        (npz(mu=MU, sigma=SIGMA[:4]), "... (5,) ... (4, 5)"),
        (npz(mu=MU, sigma=SIGMA * np.nan), "... finite"),
        (npz(mu=MU, sigma=np.triu(SIGMA)), "... symmetric"),
        (npz(mu=MU, sigma=np.array([Hostile()])), "... no readable file of moments"),
        (pkl({"fid": Hostile()}), "... asks for ... run"),
        (pkl({"fid": {"mu": [0.0], "sigma": [[1.0]]}}), "... list ... NumPy arrays"),
        (pkl({"fid": {"mu": np.array([None]), "sigma": SIGMA}}), "... asks for numpy.dtype ... run"),
        (pkl({"num_images": 3}), "... fid, fd_dinov2"),
        (pkl([1, 2]), "... list ... dictionary"),
        (pkl(pickle.dumps({"fid": {"mu": MU}})[:-20]), "... no readable file"),
        (lambda path: path.with_suffix(".npz"), "... cannot be read"),
        (lambda path: path.with_suffix(".txt"), "... .npz ... .pkl"),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path, write, facts):
    path = write(tmp_path / "ref")
    with pytest.raises(UserError) as error:
        load_moments(path)
    assert "\n" not in str(error.value)
    assert tells(str(error.value), f"{path} {facts}")
