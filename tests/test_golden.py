"""Training says today what it said when `golden_losses.json` was written (`python tests/golden.py`)."""

import json

import pytest
from golden import FILE, STEPS, machine, train_all

pytestmark = pytest.mark.whole

STORED = json.loads(FILE.read_text())
# Other processors and versions of torch sum in another order, which 20 steps of Adam magnify.
NEAR = 0.0 if STORED["machine"] == machine() else 2e-3


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    return train_all(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", STORED["losses"])
def test_the_first_losses_are_the_golden_ones(losses, name):
    found, stored = ([float.fromhex(value) for value in kind[name]] for kind in (losses, STORED["losses"]))
    assert len(stored) == STEPS
    assert found == pytest.approx(stored, rel=NEAR, abs=0.0)
