"""Help names what there is, fits in 80 columns uncut, and shows no types of the library beneath; likewise what the shell offers."""

import os
import re
import subprocess
import sys
from typing import get_args

import pytest
from messages import tells

from lightning_diff.cli import app as cli
from lightning_diff.metrics.features import FeatureName
from lightning_diff.runs import choices, find_schedule, recipe
from lightning_diff.samplers import CHURNED, ODE_SOLVERS, SOLVERS
from lightning_diff.schedules import GRIDS
from lightning_diff.schedules.search import METHODS

COMMANDS = (
    "train",
    "resume",
    "runs",
    "sample",
    "evaluate",
    "schedule",
    "compare",
    "report",
    "export",
    "import",
    "doctor",
    "describe",
    "show",
    "recipes",
    "new",
    "init",
    "data",
)


@pytest.fixture
def help_of(capsys, monkeypatch):
    """help_of(*words): what --help prints at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def help_of(*words: str) -> str:
        assert cli.main([*words, "--help"]) == 0
        return capsys.readouterr().out

    return help_of


def test_the_names_read_from_source_files_are_the_registries():
    assert choices.solvers() == (list(SOLVERS), list(ODE_SOLVERS), list(CHURNED))
    assert choices.grids() == list(GRIDS)
    assert choices.methods() == [*METHODS, *find_schedule.TRAINED]
    assert [*choices.features(), "inception"] == list(get_args(FeatureName))


def test_every_command_has_a_summary_that_is_not_cut(help_of):
    text = help_of()
    listed = re.findall(r"^  (\w+)  +(\S.*)$", text.partition("Commands:")[2], re.M)
    assert [name for name, _ in listed] == list(COMMANDS)
    assert all(summary.endswith(".") and "..." not in summary for _, summary in listed)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", [*COMMANDS, "data inspect", "data prepare", "data encode"])
def test_no_types_between_brackets_and_no_line_too_long(help_of, command):
    text = help_of(*command.split())
    assert not re.search(r"<[\w ,\[\]]+>|[{}]", text)
    assert max(map(len, text.splitlines())) <= 80


def test_training_names_the_recipes_and_where_keys_are_told(help_of):
    words = " ".join(help_of("train").split())
    assert all(name in words for name in recipe.packaged())
    assert "docs/recipes.md" in words
    assert "describe" in words


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"lightning_diff \S+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["sample", "x", "--solver", "huen"], "error: --solver: ... 'huen' ... heun"),
        (["sample", "x", "--grid", "karas"], "error: --grid: ... 'karas' ... karras"),
        (["schedule", "x", "--method", "git"], "error: --method: ... 'git' ... gits"),
        (["schedule", "x", "--solver", "consistency"], "error: --solver: ... 'consistency' ... euler"),
        (["evaluate", "x", "--feature", "pixel"], "error: --feature: ... 'pixel' ... pixels"),
    ],
)
def test_a_wrong_name_is_refused_before_the_run_is_looked_for(capsys, words, facts):
    assert cli.main(words) == 2
    assert tells(capsys.readouterr().err, facts)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train digits_e", {"digits_edm", "digits_end_point"}),
        ("train runs/on", {"runs/one"}),
        ("sample o", {"one", "other"}),
        ("sample one --solver d", {"dpmpp_2m", "deis"}),
        ("sample one --grid t", {"tangent"}),
        ("schedule one --method a", {"art", "art_solver", "art_rl", "ays"}),
        ("evaluate one --feature p", {"pixels"}),
        ("new mine --from imagenet64_s", {"imagenet64_scd"}),
        ("describe UN", {"UNet"}),
        ("de", {"describe"}),
    ],
)
def test_what_the_shell_offers(tmp_path, line, expected):
    for name in ("one", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    words = f"lightning-diff {line}"
    environment = {
        "_LIGHTNING_DIFF_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-m", "lightning_diff"],
        env=os.environ | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == expected, done.stderr
