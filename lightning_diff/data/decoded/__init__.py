"""Images that are decoded once and mapped from the disk ever after; no reading of image files, and no order of training."""
