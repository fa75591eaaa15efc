"""Judging samples: NumPy arrays in, (name, Result) out.

Every evaluator takes uint8 images b h w c, or the features of images, and yields names with a `Result`:
the number, and what it depends on. Nothing here knows configs; features.py alone knows devices, and is
given its network as a function. scikit-learn is imported only where a classifier is trained.
"""
