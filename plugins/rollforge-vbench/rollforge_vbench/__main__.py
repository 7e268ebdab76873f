"""``python -m rollforge_vbench``, the same program as ``rollforge-vbench``."""

from rollforge_vbench.cli import main

raise SystemExit(main())
