"""Where what may be made again is kept: below the home folder, or in a temporary folder where there is no home to write into."""

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

OWN = "LIGHTNING_DIFF_CACHE"
NAME = f"lightning_diff_{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
# What libraries keep, by the variable that names the place: matplotlib's fonts, torch.hub, the Hugging Face hub, compiled kernels.
LIBRARIES = {
    "MPLCONFIGDIR": "matplotlib",
    "TORCH_HOME": "torch",
    "HF_HOME": "huggingface",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "WANDB_CONFIG_DIR": "wandb/config",
    "WANDB_CACHE_DIR": "wandb/cache",
    "WANDB_DATA_DIR": "wandb/data",
}


def wanted() -> Path | None:
    """$LIGHTNING_DIFF_CACHE, or ~/.cache/lightning_diff; None for a user without a home."""
    own = home()
    if named := os.environ.get(OWN):
        return Path(named) if own is None else Path(named).expanduser()
    return None if own is None else own / ".cache" / "lightning_diff"


def folder() -> tuple[Path, str]:
    """Where to write, and what to say if that is a temporary folder instead of the one that was wanted; else nothing to say."""
    place = wanted()
    if place is not None and is_writable(place):
        return place, ""
    what = "no home folder is known" if place is None else f"{place} cannot be written"
    instead = temporary()
    return instead, f"{what}: caches go to {instead}; set {OWN} to a folder that lasts"


def home() -> Path | None:
    """The home folder; None for a user of whom the system knows none."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def is_writable(place: Path) -> bool:
    """Whether a folder can be written into, or made."""
    try:
        nearest = next(path for path in (place, *place.absolute().parents) if path.exists())
        return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    except OSError:  # a name that is too long, a folder above it that may not be looked into
        return False


def temporary() -> Path:
    """This user's folder among the temporary files; a new one if somebody else has that name.

    Raises:
        OSError: nothing can be written there either.
    """
    place = Path(tempfile.gettempdir()) / NAME
    place.mkdir(mode=0o700, exist_ok=True)
    is_own = not place.is_symlink() and (not hasattr(os, "getuid") or place.stat().st_uid == os.getuid())
    return place if is_own and is_writable(place) else Path(tempfile.mkdtemp(prefix="lightning_diff_"))


def provide(environment: MutableMapping[str, str] = os.environ) -> str:
    """Give libraries a place if the home folder cannot be written; what to tell the user about it, or nothing.

    To be called before they are imported. Variables that are set stay.
    """
    own = home()
    if own is not None and is_writable(own / ".cache"):
        return ""
    place, remark = folder()
    for name, part in LIBRARIES.items():
        environment.setdefault(name, str(place / part))
    return remark
