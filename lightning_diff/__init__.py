"""lightning_diff: train, distil, schedule and reward diffusion models."""
