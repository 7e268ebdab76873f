"""VBench for videos of rollforge: prepares files, runs VBench in an interpreter of its own, aggregates and records.

The core never imports this package, and this package never imports vbench: ``driver.py`` does, over there.
"""

__version__ = "0.1.0"
