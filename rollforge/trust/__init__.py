"""What a config may import, and the classes that it may name."""

from rollforge.trust.imports import check_classes, guarded, refusal, refused

__all__ = ["check_classes", "guarded", "refusal", "refused"]
