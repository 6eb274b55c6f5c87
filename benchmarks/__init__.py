"""Benchmarks: Tutelage against the disk, the broker and its peers, alternately and in one run."""
