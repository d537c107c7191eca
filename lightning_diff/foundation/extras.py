"""Packages that are no part of the plain installation: whether one is there, and the sentence for one that is not."""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from .errors import UserError

# By the name that is imported; the extras of pyproject.toml say the same (tests/foundation/test_extras.py).
EXTRAS = {
    "datasets": "huggingface",
    "diffusers": "diffusers",
    "huggingface_hub": "diffusers",
    "litdata": "litdata",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "plotly": "report",
    "pyarrow": "huggingface",
    "tensorboard": "tensorboard",
    "timm": "fid",
    "torch_fidelity": "fid",
    "torchao": "torchao",
    "transformers": "transformers",
    "wandb": "wandb",
}


# What recipes often name besides, under the name that pip knows too.
OFTEN_NAMED = ("accelerate", "onnxruntime", "peft", "torchvision", "webdataset", *EXTRAS)


def is_installed(package: str) -> bool:
    """Whether a package can be imported; a folder of its name beside the run, without code in it, is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: a module without a spec, as tests put in a package's place
        return sys.modules.get(package) is not None
    return spec is not None and spec.origin is not None  # None of a folder without code


def file_of(package: str, *parts: str) -> Path | None:
    """A file that a package brings along, found without importing the package; None where it is not.

    Args:
        package: the name that is imported.
        parts: of the path below the package's folder.
    """
    if not is_installed(package):
        return None
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () if (path := Path(folder, *parts)).is_file()), None)


def required(package: str, of: str, hint: str = "") -> ModuleType:
    """The package, imported.

    Args:
        package: the name that is imported, "torchao" or "pyarrow.parquet".
        of: who needs it, which begins the message.
        hint: what ends it.

    Raises:
        UserError: it is not there, or cannot be imported.
    """
    try:
        with quietly():
            return importlib.import_module(package)
    except (
        ImportError,
        RuntimeError,
        OSError,
        AttributeError,
    ) as error:  # not there, half there, or built for another torch
        top = package.partition(".")[0]
        reason = " ".join(str(error).split())
        raise UserError(
            f"{of} needs {top}, which cannot be imported ({reason}): {how_to_install(top)}{hint}"
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """While a package imports parts of itself: without its remarks on others that it does not need, such as torchao's kernels."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def how_to_install(package: str) -> str:
    """The command for a package that is not there."""
    extra = EXTRAS.get(package)
    what = f"'lightning_diff[{extra}]'" if extra else package
    return f"pip install {what}"
