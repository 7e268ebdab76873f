"""Installs the lowest version of every dependency that ``pyproject.toml`` states, and runs a smoke test with them.

    python tests/lower_bounds.py FOLDER

It downloads several gigabytes (torch with CUDA on Linux), so it is no part of the suite: ``make lower-bounds`` runs it.
FOLDER is a new virtual environment; what was there is deleted.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "quickstart.yaml")
TRAINING = str(ROOT / "configs" / "pocket" / "1-codec.yaml")
SMOKE = (
    ["plugins"],
    ["gpu", "--device", "cpu", "--output_dir", "gpu"],
    ["predict", "--config", CONFIG, "--data.seconds", "3", "--output_dir", "predicted"],
    ["test", "--data.videos", "predicted", "--output_dir", "measured"],
    ["fit", "--config", TRAINING, "--trainer.max_steps", "2", "--output_dir", "trained"],
    ["doctor", "--config", CONFIG, "--probe_seconds", "0"],
)


def lowest(project: Path) -> list[str]:
    """``name==version`` for each dependency of a ``pyproject.toml``, and of its extra ``wan``, at its lower bound."""
    table = tomllib.loads(project.read_text())["project"]
    stated = [*table["dependencies"], *table.get("optional-dependencies", {}).get("wan", [])]
    found = (re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", each) for each in stated)
    return [f"{match[1]}=={match[2]}" for match in found if match]


def main(folder: Path) -> int:
    """Builds the environment and runs the smoke test; the exit code is that of the first command that fails."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    pins = lowest(ROOT / "pyproject.toml")
    sys.stdout.write("\n".join(["Installing:", *pins, ""]))
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins, f"{ROOT}[wan]"]
    if code := subprocess.run(install, check=False).returncode:
        return code
    with tempfile.TemporaryDirectory() as work:
        for arguments in SMOKE:
            sys.stdout.write(f"rollforge {' '.join(arguments)}\n")
            sys.stdout.flush()
            line = [python, "-P", "-m", "rollforge", *arguments]
            if code := subprocess.run(line, cwd=work, check=False).returncode:
                return code
    sys.stdout.write("The lowest versions work.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
