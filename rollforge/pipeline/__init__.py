"""Prompts in, finished blocks with their pixel frames out; plain torch."""
