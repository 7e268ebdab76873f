"""Training steps against the authors' own released programs: values and gradients.

Each case is a folder whose ``meta.json`` has a kind other than ``rollout``. What computes it is looked up by its
``method`` in ``training_cases.py``; a case that nothing computes fails.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_authors import ABSENT, CASES
from training_cases import CASES as COMPUTED
from training_method import Case

FOLDERS = [
    file.parent
    for file in sorted(CASES.rglob("meta.json"))
    if json.loads(file.read_text()).get("kind", "rollout") != "rollout"
]


@pytest.mark.parametrize("folder", FOLDERS or [pytest.param(CASES, marks=ABSENT)], ids=lambda folder: folder.name)
def test_a_training_step_equals_the_authors_program(folder: Path) -> None:
    case = Case(folder)
    method = case.meta.get("method")
    assert method in COMPUTED, f"{folder.name}: nothing in training_cases.py computes the method {method!r}"
    COMPUTED[method](case)
