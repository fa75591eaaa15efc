"""Wrappers from a sampler to a sampler that put the known part into x after each step: any network inpaints.

The known part is exact in the result. The rest is biased: the network sees known pixels whose noise it could not
have foreseen, and never takes back what it drew beside them. Resampling (RePaint) lessens that.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.editing.operators import Operator, impose
from diffusion.gaussian import renewed
from diffusion.sampling import Sampler, normal, stream
from diffusion.schedules import Schedule, clean_at_zero

KNOWN = 2**31  # the stream of a step's key from which the known part's noise is drawn, beside the sampler's own


# Song et al. 2021 (score SDEs) appendix I.2 for any A; Lugmayr et al. 2022 (RePaint) eq. (8) for masks
def replaced(sampler: Sampler, schedule: Schedule, operator: Operator, y: Array) -> Sampler:
    """The seen part of x_s is drawn from q(x_s | x0) after every step; y = A x0. At s = 0 it is y's, without noise.

    x leaves the sampler's path at each step, so that a multistep method starts anew: it is of first order here.
    """
    level = clean_at_zero(schedule).level

    def step(keys, denoise, x, fresh, t, s):
        x, _ = sampler.step(keys, denoise, x, fresh, t, s)
        noise = operator.forward(normal(stream(keys, KNOWN), x.shape[1:], x.dtype))
        return impose(operator, x, level(s).alpha * y + level(s).sigma * noise), fresh

    return Sampler(sampler.init, step, sampler.calls)


# Lugmayr et al. 2022, algorithm 1
def resampled(sampler: Sampler, schedule: Schedule) -> Sampler:
    """The sampler on a grid that also rises, as `jumps` makes: a step up is noise, q(x_s | x_t), and calls nothing."""
    level = clean_at_zero(schedule).level

    def noise(keys, x, t, s):
        clean, noisy = level(t), level(s)
        std = noisy.sigma * jnp.sqrt(renewed(noisy, clean))
        return noisy.alpha / clean.alpha * x + std * normal(keys, x.shape[1:], x.dtype)

    def step(keys, denoise, x, memory, t, s):
        def down():
            return sampler.step(keys, denoise, x, memory, t, s)

        return jax.lax.cond(s > t, lambda: (noise(keys, x, t, s), memory), down)

    return Sampler(sampler.init, step, lambda times: falling_calls(sampler.calls, np.asarray(times)))


def falling_calls(calls: Callable, times: np.ndarray) -> int:
    """The calls of a sampler over the falling stretches of a grid.

    One that ends above data is counted as one that went on to it, less the single call of that last step.
    """
    stretches = np.split(times, np.flatnonzero(np.diff(times) > 0) + 1)
    return sum(calls(each) if each[-1] == 0 else calls(np.append(each, 0.0)) - 1 for each in stretches)


# Lugmayr et al. 2022 section 4.2 and appendix: their schedule of times
def jumps(times: np.ndarray, length: int = 10, resamplings: int = 10) -> np.ndarray:
    """A grid that, at each `length`-th time counted from the one before data, goes back up `length` steps.

    Every such stretch is walked down `resamplings` times; 1 is the grid itself. Raises ValueError where a number is
    below 1, or the grid has no stretch of that length above its last step.
    """
    steps = len(times) - 1
    if length < 1 or resamplings < 1:
        raise ValueError(f"jump: got length {length} and resamplings {resamplings}; give 1 or more")
    if length >= steps:
        raise ValueError(f"jump: a length of {length} does not fit a grid of {steps} steps; give {steps - 1} at most")
    walk = []
    for i in range(steps):
        walk.append(i)
        left = steps - i  # steps to data; at 1, 1 + length, .. there is a jump, where it stays on the grid
        if (left - 1) % length == 0 and left + length <= steps:
            walk += [*range(i - length, i + 1)] * (resamplings - 1)
    return np.asarray(times)[[*walk, steps]]
