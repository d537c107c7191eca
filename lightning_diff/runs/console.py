"""What a run says: one process speaks for all, and Lightning's banners stay out of the way."""

import logging
import shutil
import sys
import textwrap
import warnings

from ..foundation.first_process import is_first_process


def say(text: str) -> None:
    """Print on the first process, at once; on a terminal no word is cut at its edge, as none is that is printed above a bar."""
    if is_first_process():
        print(_wrapped(text) if sys.stdout.isatty() else text, flush=True)


def _wrapped(text: str) -> str:
    """Lines that are wider than the terminal, broken between words; what is one word, a path, stays one."""
    columns = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False) if len(line) > columns else line
        for line in text.splitlines()
    )


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
