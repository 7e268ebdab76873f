"""The report: one self-contained page that makes no network requests."""
