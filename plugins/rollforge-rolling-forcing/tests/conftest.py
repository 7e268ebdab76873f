"""Lets the tests import the package and the helpers of the repository."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
sys.path[:0] = [str(PACKAGE), str(PACKAGE.parents[1] / "tests" / "helpers")]
