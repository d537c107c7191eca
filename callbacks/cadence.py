"""When something is due, counted in images, so that it does not move with the batch size or a restart."""

from typing import Any


def is_due(pl_module: Any, every: int | None) -> bool:
    """Whether the optimiser step just finished crossed a multiple of `every` images; never for None."""
    seen, batch = pl_module.images_seen, pl_module.batch_size
    return every is not None and bool(seen // every > (seen - batch) // every)
