"""Files about the project agree with the project."""

import re
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def parsed(path: str):
    return OmegaConf.to_container(OmegaConf.create((ROOT / path).read_text().replace("${{", "${oc.env:HOME,")))


def test_the_citation_and_the_changelog_are_of_this_version():
    cited = parsed("CITATION.cff")
    released = re.findall(r"^## \[(\d\S*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == (VERSION, cited["date-released"])
    assert cited["version"] == VERSION


def test_the_workflow_runs_what_a_change_must_pass_and_may_write_nothing():
    workflow = parsed(".github/workflows/ci.yml")
    job = workflow["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert workflow["permissions"] == {"contents": "read"}
    (python,) = (step["with"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert (python["python-version"], python["cache"]) == ("3.11", "pip")
    assert all((ROOT / path).is_file() for path in python["cache-dependency-path"].split())
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "checkout" not in step.get("uses", "") or step["with"] == {"persist-credentials": False}


def test_the_workflow_tries_every_python_that_the_package_names():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(metadata["classifiers"]))
    jobs = parsed(".github/workflows/ci.yml")["jobs"]
    assert ["3.11", *jobs["pythons"]["strategy"]["matrix"]["python"]] == named


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issues_ask_for_doctor_versions_and_recipe(name):
    form = parsed(f".github/ISSUE_TEMPLATE/{name}.yml")
    fields = {each["id"]: each["attributes"] for each in form["body"]}
    assert "lightning-diff doctor" in str(fields["doctor"])
    assert "versions.json" in str(fields)
    assert "recipe.yaml" in str(fields)
    assert fields["recipe"]["render"] == "yaml"
