"""Experiments as data: each file's `get_config` is `base` plus the differences of one recipe."""
