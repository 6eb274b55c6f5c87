"""Measurements: what Tutelage moves against what the disk and the broker can, alternately and in one run."""
