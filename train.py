"""Train one or more recipes, for people in a clone: the same as `lightning-diff train`.

python train.py recipes/digits_edm.yaml [key=value ...] [--dry-run]
"""

import sys

from lightning_diff.cli import main
from lightning_diff.foundation import garbage

garbage.put_off()
sys.exit(main(["train", *sys.argv[1:]]))
