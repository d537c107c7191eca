"""When Python looks for garbage: not while a program is still importing, and never among what it has imported.

What a training imports makes 700,000 objects, which stay for as long as the process does. Python's collector walks through all of
them whenever their number has grown by a quarter, and once more at the end: two fifths of the CPU time of a short command, for
nothing. A program of ours puts it off until its long work begins, and keeps it from what is there by then. It is the program that
decides this: a library that is imported into somebody else's process leaves the collector alone.
"""

import gc

ENOUGH = 3_000_000  # new objects at which Python looks after all; no command imports a third as many

_usual: tuple[int, int, int] | None = None  # thresholds to go back to; None while nothing is put off


def put_off() -> None:
    """Collect nothing for now. To be called before the large imports, by a process that is ours."""
    global _usual
    if _usual is None:
        _usual = gc.get_threshold()
        gc.set_threshold(ENOUGH, *_usual[1:])


def take_up() -> None:
    """Collect as usual from here on, but not what is there now. Does nothing where nothing was put off.

    To be called where a command's long work begins.
    """
    global _usual
    if _usual is not None:
        gc.freeze()
        gc.set_threshold(*_usual)
        _usual = None
