"""The recipe of runs that take a tenth of a second."""

TINY = """
seed: 3
report: false
model:
  _target_: lightning_diff.DiffusionModule
  net: {_target_: lightning_diff.nets.MLP, width: 16, depth: 1}
data: {_target_: lightning_diff.data.Toy, n: 256, conditional: true, batch_size: 16}
trainer: {accelerator: cpu, max_steps: 8, log_every_n_steps: 1}
"""
