"""The files that scikit-learn brings along, read without importing it, which takes a third of a second."""

from pathlib import Path

from ..foundation.errors import UserError
from ..foundation.extras import file_of


def bundled(folder: str, name: str) -> Path:
    """A file of `sklearn.datasets`. UserError if there is none.

    Args:
        folder: "data" or "images".
        name: of the file.
    """
    path = file_of("sklearn", "datasets", folder, name)
    if path is None:
        raise UserError(
            f"scikit-learn is not installed, or is one without datasets/{folder}/{name}; pip install scikit-learn"
        )
    return path
