"""What a run says: one process speaks for all, and Lightning's banners stay out of the way."""

import logging
import warnings

from ..foundation.first_process import is_first_process


def say(text: str) -> None:
    """Print on the first process, at once."""
    if is_first_process():
        print(text, flush=True)


def quieten() -> None:
    """Keep Lightning's banners and tips out of the way of what the run says itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # images in memory are read faster without
        ".*your dataloader is not resumable.*",  # the stream is a function of the position
        ".*FSDP2-wrapped module.*returned a view tensor.*",  # nothing writes into a network's output
        ".*LeafSpec.*",  # Lightning's use of torch
        "GPU available but not used.*",  # trainer.accelerator=cpu means it
    ):
        warnings.filterwarnings("ignore", message)
