"""The columns of metrics.csv, for whoever reads it without Lightning."""

FIRST = ("n", "seed", "solver", "steps", "nfe", "ema", "reference")  # of a figure's protocol; version 0.1 had these
LATER = ("sigmas", "guidance", "guide", "interval", "options", "precision", "generator", "labels")
PROTOCOL = (*FIRST, *LATER)  # the fields of `metrics.Protocol`
VERSION_0_1 = ("step", "images", "metric", "value", *FIRST)
HEADER = (*VERSION_0_1, *LATER)
