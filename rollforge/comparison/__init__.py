"""Comparisons: one config under several values of its options, run by run, and the report of it."""
