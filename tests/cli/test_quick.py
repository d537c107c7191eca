"""What a person waits for while typing: answered without torch, whose import alone takes longer."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.whole

CODE = """
import sys
from lightning_diff.cli import main
code = main(sys.argv[2:])
assert code == int(sys.argv[1]), code
late = {"torch", "lightning", "matplotlib", "scipy"} & set(sys.modules)
assert not late, late
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    (folder / "runs" / "one" / "checkpoints").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, "train digits_edm model.net.chanels=3"),
        (2, "train digits_edm trainer.max_step=3"),
        (2, "sample one --solver y"),
        (2, "schedule one --method y"),
        (2, "resume two"),
        (0, "describe"),
        (0, "describe UNet"),
        (0, "runs"),
        (0, "sample --help"),
        (0, "--version"),
    ],
)
def test_it_answers_without_torch(place, code, words):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(code), *words.split()], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
