"""Programs beside the main job, each run as `python -m tools.NAME`."""
