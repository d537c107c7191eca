"""`python -m lightning_diff`: the command line."""

import sys

from .cli import main

sys.exit(main())
