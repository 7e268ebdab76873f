"""``python -m rollforge_vbench``, the same program as ``rollforge-vbench``."""

from rollforge.isolation import leave_current_folder_out

leave_current_folder_out()  # before anything else is imported

from rollforge_vbench.cli import main  # noqa: E402

raise SystemExit(main())
