"""What the benchmarks import, and the options that pages give them, exist: they run by hand, long after what they use has moved."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted(ROOT.glob("benchmarks/**/*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_benchmark_imports_of_ours_exists(path):
    missing = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("lightning_diff"):
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                try:
                    getattr(module, name, None) or importlib.import_module(f"{node.module}.{name}")
                except ModuleNotFoundError:
                    missing.append(f"{node.module}.{name}")
    assert not missing


def test_benchmarks_have_the_options_that_pages_and_recipes_give_them():
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/*.yaml"), *BENCHMARKS]
    named = re.compile(r"python (?:benchmarks/(\w+)\.py|-m benchmarks\.(\w+))([^`#)\n]*)")
    found = [(path.name, *match.groups()) for path in pages for match in named.finditer(path.read_text())]
    assert len(found) > 50
    for page, script, module, words in found:
        name = script or module
        place = (
            ROOT
            / "benchmarks"
            / (f"{name}.py" if (ROOT / "benchmarks" / f"{name}.py").exists() else f"{name}/__main__.py")
        )
        own = place.read_text()
        for option in re.findall(r"--[a-z-]+", words):
            assert f'"{option}"' in own, f"{page}: {name} has no {option}"
