"""Programs that measure what is claimed about speed, each run as `python -m benchmarks.NAME`."""
