"""What a release consists of besides code agrees with the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from rollforge import __version__

ROOT = Path(__file__).parents[1]
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


def test_changelog_and_citation_name_the_version() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert headings[:2] == ["Unreleased", f"{__version__} - {citation['date-released']}"]
    assert citation["version"] == __version__
    assert citation["license"] == tomllib.loads(PROJECTS[0].read_text())["project"]["license"]


def test_the_workflow_runs_what_continuous_integration_runs_on_every_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    job = workflow["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    oldest = tomllib.loads(PROJECTS[0].read_text())["project"]["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"] == [oldest, "3.12", "3.13"]


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[bm]*.yml")), ids=lambda f: f.stem)
def test_an_issue_form_has_what_github_requires(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= content.keys()
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) > 0


@pytest.mark.parametrize("project", PROJECTS[1:], ids=lambda file: file.parent.name)
def test_every_package_carries_the_licence_that_it_names(project: Path) -> None:
    assert tomllib.loads(project.read_text())["project"]["license"] == "Apache-2.0"
    assert (project.parent / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
