"""Lightning's plugin that writes and reads our checkpoints."""

import shutil
from pathlib import Path

import torch
from lightning.fabric.plugins import CheckpointIO

from . import format


class CheckpointFiles(CheckpointIO):
    """Straight to the file; read without running anything, in any format that we have written.

    Lightning's own builds the whole file in memory first, as large as the network, its averages and the optimiser's state.
    """

    def save_checkpoint(self, checkpoint: dict[str, object], path: Path | str, storage_options: object = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # Lightning's own callbacks save in folders of theirs
        try:
            with Path(path).open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's writer complains of its position when a write has failed
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            if cause is None:
                raise
            raise OSError(cause.errno, cause.strerror, str(path)) from error

    def load_checkpoint(
        self, path: Path | str, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, object]:
        state = dict(format.read(Path(path)))
        if not Path(path).is_dir():
            return state
        from . import sharded  # 0.1 s: torch.distributed.checkpoint

        return sharded.filled(state, Path(path))

    def remove_checkpoint(self, path: Path | str) -> None:
        path = Path(path)
        if path.is_dir() and not path.is_symlink():  # in shards
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
