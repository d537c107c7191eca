"""Published weights files of feature networks: where one is looked for, and fetched from where it is not there."""

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import torch
from filelock import FileLock

from ..foundation import caches, stopping
from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from ..foundation.progress import stage

HINT = ", with torchvision from where torch came from"  # for the libraries of feature networks: they need that one
CHUNK = 1 << 20  # bytes read at a time
PATIENCE = 20.0  # seconds until a server that says nothing is given up


@dataclass(frozen=True)
class PublishedWeights:
    """A weights file that others publish.

    Args:
        space: feature space that needs it, for messages.
        file: its name, under which it is looked for in the caches of this project and of torch.hub.
        url: where it is fetched from.
        environment: variable that holds the path of a file, which then is taken and no other.
        sha256: of its content, or None where none has been published with it.
    """

    space: str
    file: str
    url: str
    environment: str
    sha256: str | None = None

    def find(self, path: Path | str | None = None) -> Path:
        """The file, fetched into the cache if it is nowhere: by one process, while others that want it wait.

        Args:
            path: the file; None for the one that the environment names, or else the caches'.

        Raises:
            UserError: it is not there and cannot be fetched; with where to get it and where to put it.
        """
        if given := path or os.environ.get(self.environment):
            if not Path(given).is_file():
                raise UserError(f"{given}: there is no such weights file for '{self.space}'; {self.advice}")
            return Path(given)
        own, remark = caches.folder()
        target = own / self.file
        for place in (target, Path(torch.hub.get_dir()) / "checkpoints" / self.file):
            if place.is_file():
                return place
        if remark:
            warnings.warn(remark, stacklevel=2)
        own.mkdir(parents=True, exist_ok=True)
        with FileLock(own / f"{self.file}.lock"):
            if not target.is_file():
                self._fetch(target)
        return target

    def read(self, path: Path | str | None = None) -> bytes:
        """Its content, checked where a hash is known; arguments and errors as for `find`, and UserError for another file."""
        content = (found := self.find(path)).read_bytes()
        self._refuse_other(found, hashlib.sha256(content).hexdigest())
        return content

    @property
    def advice(self) -> str:
        """Where to get the file and where to put it."""
        place = caches.folder()[0]
        return f"get it from {self.url} and put it into {place}, or set {self.environment} to its path"

    def _refuse_other(self, path: Path | str, digest: str) -> None:
        if self.sha256 not in (None, digest):
            raise UserError(
                f"{path}: sha256 begins with {digest[:8]}, that of the weights of '{self.space}' with "
                f"{str(self.sha256)[:8]}; {self.advice}"
            )

    def _fetch(self, target: Path) -> None:
        digest = hashlib.sha256()
        try:
            with urlopen(self.url, timeout=PATIENCE) as source, replacing(target) as temporary:
                size = int(source.headers.get("Content-Length") or 0)
                with (
                    temporary.open("wb") as file,
                    stage(f"fetching {self.file}", size >> 20, "MiB", lines=True) as bar,
                ):
                    while part := source.read(CHUNK):
                        stopping.check()
                        digest.update(part)
                        file.write(part)
                        bar.reach(file.tell() >> 20)
                    if size and file.tell() != size:
                        raise OSError(f"{file.tell():,} of {size:,} bytes came")
                self._refuse_other(self.url, digest.hexdigest())
        except (OSError, ValueError) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split())
            raise UserError(
                f"feature space '{self.space}' needs {self.file}, which is not here and cannot be fetched ({reason}); "
                f"{self.advice}, or choose another feature space"
            ) from error
