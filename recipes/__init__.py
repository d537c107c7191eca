"""Recipes: whole experiments, one YAML file each. No code. Installed as `lightning_diff.recipes`."""
