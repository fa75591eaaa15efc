"""Networks that others published, as parameters of this project's: names and shapes moved, no number changed."""
