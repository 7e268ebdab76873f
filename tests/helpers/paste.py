"""Follows a page as a reader does: python paste.py BLOCKS.json

Each block is pasted in order: a file is saved, commands go to a shell, Python to one session. Needs the standard
library alone, so that it runs in an environment that knows nothing of these tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def main(file: str) -> None:
    sys.path[0] = ""  # as in an interactive session
    session: dict[str, Any] = {"__name__": "__main__"}
    for language, title, code in json.loads(Path(file).read_text()):
        if title is not None:
            Path(title).write_text(code)
        elif language == "bash":
            subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
        else:
            exec(compile(code, file, "exec"), session)


if __name__ == "__main__":
    main(sys.argv[1])
