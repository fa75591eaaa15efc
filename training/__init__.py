"""Training: state, step, optimiser, averages, checkpoints, metrics and the loop.

It takes callables and arrays: networks, diffusion and data reach it as functions, so nothing here
reads a config or knows a model.
"""
