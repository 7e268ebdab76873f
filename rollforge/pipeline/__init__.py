"""Prompts in, finished blocks with their pixel frames out; plain torch."""

from rollforge.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]
