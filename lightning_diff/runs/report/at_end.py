"""The report that a training leaves in its folder when it ends."""

from pathlib import Path

from ...foundation import extras
from ..console import say

REPORT = "report.html"


def report_at_end(folder: Path) -> None:
    """Write the report of a run whose training has ended into its folder; nothing where the extra `report` is not installed.

    What goes wrong is said in a line, and harms the run in nothing.
    """
    if not extras.is_installed("plotly"):
        return
    from .page import write

    try:
        write([folder], folder / REPORT)
    except Exception as error:  # a fault in drawing a page must not make a training of days end in an error
        say(f"{folder / REPORT}: not written: {' '.join(str(error).split()) or type(error).__name__}")
