"""When something is due, counted in images, so that it does not move with the batch size or a restart."""

from typing import Any


def refuse_nonpositive(callback: str, **numbers: int | float | None) -> None:
    """ValueError for an option that has to be positive, or None, and is not."""
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise ValueError(f"{callback}: {name} must be positive, got {number}")


def is_due(pl_module: Any, every: int | None) -> bool:
    """Whether the optimiser step just finished crossed a multiple of `every` images; never for None."""
    seen, batch = pl_module.images_seen, pl_module.batch_size
    return every is not None and bool(seen // every > (seen - batch) // every)
