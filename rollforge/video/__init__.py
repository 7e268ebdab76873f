"""Video files and pictures of videos. No torch here."""

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".apng"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".flv"),
)
"""How the names of videos end, in lower case."""
