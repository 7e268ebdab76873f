"""One module for each command of ``rollforge``."""
