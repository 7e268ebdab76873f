"""What a run folder holds: videos with their contact sheets, curves and manifest."""
