"""Judging samples: NumPy arrays in, (name, Result) out.

Every evaluator takes uint8 images b h w c and yields names with a `Result`: the number, and what it
depends on. Nothing here knows networks, configs or devices, and scikit-learn is imported only
where a classifier is trained.
"""
