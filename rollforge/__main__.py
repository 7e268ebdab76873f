"""``python -m rollforge``."""

import sys

from rollforge.isolation import leave_current_folder_out

leave_current_folder_out()  # before anything else is imported

from rollforge.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
