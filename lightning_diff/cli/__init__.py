"""The command line: what was typed, checked and handed on; errors become exit codes. No work is done here."""

from .app import main

__all__ = ["main"]
