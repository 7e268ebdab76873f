"""Files: complete or absent when written, regular and bounded when read."""
