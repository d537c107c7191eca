"""Every name that the code uses is there. The type checker and the linter cannot be asked in general: shapes in annotations are
strings, such as "*b", whose letters they take for names.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def is_in_a_string(path: Path, row: int, column: int) -> bool:
    """Whether this place, both counted from 1, lies in a string."""
    nodes = ast.walk(ast.parse(path.read_text()))
    texts = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(node.lineno == row and node.col_offset < column <= (node.end_col_offset or 0) for node in texts)


def test_no_name_is_undefined():
    folders = [ROOT / name for name in ("lightning_diff", "callbacks", "tests", "benchmarks")]
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--target-version=py311", "--select=F821"]
    done = subprocess.run([*command, "--output-format=json", *folders], capture_output=True, text=True)
    undefined = []
    for found in json.loads(done.stdout):
        path, place = Path(found["filename"]), found["location"]
        if not is_in_a_string(path, place["row"], place["column"]):
            undefined.append(f"{path.relative_to(ROOT)}:{place['row']}: {found['message']}")
    assert not undefined
