"""When something is due, counted in images, so that it does not move with the batch size or a restart."""

from ..modules.base import CountedModule


def refuse_nonpositive(callback: str, **numbers: int | float | None) -> None:
    """ValueError for an option that has to be positive, or None, and is not."""
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise ValueError(f"{callback}: {name} must be positive, got {number}")


def is_due(module: CountedModule, every: int | None) -> bool:
    """Whether the optimiser step just finished crossed a multiple of `every` images; never for None."""
    seen, batch = module.images_seen, module.batch_size
    return every is not None and bool(seen // every > (seen - batch) // every)
