"""Mean and covariance of images' features, in files that are exchanged with others: EDM's .npz and EDM2's .pkl.

EDM (`fid.py ref`), pytorch-fid and clean-fid write an .npz with `mu` and `sigma`. EDM2 (`calculate_metrics.py ref`) pickles a
dictionary, {"fid": {"mu", "sigma"}, "fd_dinov2": {...}, "num_images": n}; it is read without running what a pickle may contain.
Ours note in three more arrays of the .npz what the others leave to memory: feature space, its network, and number of images.
"""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from .edm_unpickler import DataUnpickler, Refused, SavedArray

SUFFIXES = (".npz", ".pkl")
EDM2 = {"fid": "fid_inception", "fd_dinov2": "dinov2"}  # metrics of EDM2, and our names of their feature spaces
MOST = 16_384  # features: beyond, a square matrix that a file claims would fill the memory


@dataclass(frozen=True)
class FeatureMoments:
    """Mean and covariance (divided by n - 1) of the features of n images.

    Args:
        mean: of the features.
        covariance: likewise.
        space: feature space by name; None where the file does not say, as EDM's .npz do not.
        network: hash of the feature network; None where the file does not say.
        n: images; None where the file does not say.
    """

    mean: Float64[Tensor, " d"]
    covariance: Float64[Tensor, "d d"]
    space: str | None = None
    network: str | None = None
    n: int | None = None

    @property
    def dim(self) -> int:
        """Number of features."""
        return len(self.mean)


def load_moments(path: Path | str) -> dict[str, FeatureMoments]:
    """The moments in a file by feature space; under "" those of a file that does not say of which.

    Raises:
        UserError: no such file, neither of both kinds, damaged, or with something in it that is no plain data.
    """
    path = Path(path)
    refuse_suffix(path)
    try:
        found = _of_npz(path) if path.suffix == ".npz" else _of_pickle(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Refused as error:
        raise UserError(f"{path}: asks for {error}, which moments do not need; nothing of it was run") from error
    except UserError:
        raise
    except Exception as error:  # a broken stream of opcodes may fail in any way, a damaged zip in many
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: is no readable file of moments ({reason[:200]})") from error
    if not found:
        raise UserError(f"{path}: holds moments of none of {', '.join(EDM2)}")
    return found


def save_moments(path: Path | str, moments: FeatureMoments) -> None:
    """Write an .npz that EDM's `fid.py` reads, too, or by its suffix a .pkl that EDM2's `calculate_metrics.py` reads."""
    path = Path(path)
    mean, covariance = moments.mean.numpy(force=True), moments.covariance.numpy(force=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npz":
            notes = {"feature": moments.space, "network": moments.network, "num_images": moments.n}
            known: dict[str, Any] = {name: value for name, value in notes.items() if value is not None}
            np.savez(file, mu=mean, sigma=covariance, **known)
        else:
            names = {ours: theirs for theirs, ours in EDM2.items()}
            name = names.get(moments.space or "", moments.space or "")
            pickle.dump({"num_images": moments.n, name: {"mu": mean, "sigma": covariance}}, file, protocol=4)


def refuse_suffix(path: Path) -> None:
    """UserError for a file whose name ends neither in .npz nor in .pkl."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a file of moments ends in .npz (EDM's) or .pkl (EDM2's)")


def _of_npz(path: Path) -> dict[str, FeatureMoments]:
    if not zipfile.is_zipfile(path):
        path.open("rb").close()  # OSError where there is none
        raise UserError(f"{path}: is no .npz file")
    with np.load(path, allow_pickle=False) as file:
        if missing := {"mu", "sigma"} - set(file.files):
            there = ", ".join(file.files[:6]) or "nothing"
            images = "; images are given by --images or --data" if "arr_0" in file.files else ""
            raise UserError(f"{path}: lacks {' and '.join(sorted(missing))} (it has {there}){images}")
        space, network = (str(file[key]) if key in file.files else None for key in ("feature", "network"))
        n = int(file["num_images"]) if "num_images" in file.files else None
        return {space or "": _checked(path, file["mu"], file["sigma"], space, network, n)}


def _of_pickle(path: Path) -> dict[str, FeatureMoments]:
    with path.open("rb") as file:
        content = DataUnpickler(file).load()
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, where EDM2 has a dictionary of metrics")
    n = content.get("num_images")
    found = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and {"mu", "sigma"} <= value.keys():
            space = EDM2.get(str(name), str(name))
            mu, sigma = (_array(path, value[key]) for key in ("mu", "sigma"))
            found[space] = _checked(path, mu, sigma, space, None, n if isinstance(n, int) else None)
    return found


def _array(path: Path, value: object) -> np.ndarray:
    values = value.values if isinstance(value, SavedArray) else None
    if values is None:
        raise UserError(f"{path}: holds {type(value).__name__} where mu and sigma are NumPy arrays")
    return values


def _checked(
    path: Path, mean: np.ndarray, covariance: np.ndarray, space: str | None, network: str | None, n: int | None
) -> FeatureMoments:
    """UserError for arrays that are no mean and covariance of one number of features."""
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not 0 < len(mean) <= MOST:
        raise UserError(f"{path}: mu has shape {mean.shape} and sigma {covariance.shape}; expected (d,) and (d, d)")
    if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in (mean, covariance)):
        raise UserError(f"{path}: mu and sigma are not all finite floating point numbers")
    if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * max(float(np.abs(covariance).max()), 1e-30)):
        raise UserError(f"{path}: sigma is not symmetric, so that it is no covariance")
    first, second = (torch.from_numpy(array.astype(np.float64)) for array in (mean, covariance))
    return FeatureMoments(first, second, space, network, n)
