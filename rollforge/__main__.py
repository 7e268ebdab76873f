"""``python -m rollforge``."""

import sys

from rollforge.cli import main

sys.exit(main())
