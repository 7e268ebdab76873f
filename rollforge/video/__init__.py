"""Video files and pictures of videos. No torch here."""

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".apng"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".flv"),
)
"""How the names of videos end, in lower case."""

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp"),
    *(".gif", ".tif", ".tiff", ".avif"),
)
"""How the names of pictures end, in lower case."""
SIDE_BY_SIDE = ".side-by-side"
"""Before the suffix of a file that shows two videos in one picture."""
