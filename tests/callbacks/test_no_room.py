"""A disk that fills up in the middle of saving."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch

from lightning_diff.foundation.errors import UserError

SAVE = "{_target_: lightning_diff.callbacks.Checkpoint, every_images: 32}"
FULL = "{_target_: interrupting.NoRoom, step: 3, size: %d}"


@pytest.fixture(autouse=True)
def _limits():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_last_good_checkpoint_stays_and_the_run_goes_on_from_it(train, state):
    whole = state(train("whole", f"callbacks=[{SAVE}]"))
    with pytest.raises(UserError) as refused:
        train("full", f"callbacks=[{SAVE}, {FULL % 20_000}]")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    assert os.strerror(errno.EFBIG) in str(refused.value)
    assert "runs/full/checkpoints/step_00000002.ckpt" in str(refused.value)
    left = sorted(path.name for path in Path("runs/full/checkpoints").iterdir())
    assert left == ["step_00000002.ckpt", "step_00000002.json"]  # nothing half written
    parts = state(train("full", f"callbacks=[{SAVE}]"))
    assert parts["global_step"] == whole["global_step"]
    assert all(torch.equal(parts["state_dict"][name], value) for name, value in whole["state_dict"].items())
