"""The mathematics of diffusion on jax arrays: no network, no config, no files.

A time t gives a noise level, a level and an image give a noisy image, a network's output on it gives a prediction, and
a prediction gives a loss or the previous image: gaussian, schedules, prediction, times, losses, guidance, sampling,
samplers, in that order. Images are b h w c in [-1, 1]; t is in [0, 1], 0 is data and 1 is noise. A level is [b 1 1 1]
in training and [] in sampling, so that no formula holds a reshape. Everything is computed in the dtype it is given.
"""
