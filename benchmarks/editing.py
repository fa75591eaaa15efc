"""The bias of each way to hold sampling to what is known, on a Gaussian where the truth is known.

    python -m benchmarks.editing [--draws=50000]

Two pixels of variance .25 and correlation .9, the first known to be .8: the other is N(.72, .0475). Every method draws
through the library in 100 ancestral steps; replacement, RePaint and the exact conditional also have a
recursion in numpy float64, at more steps too. Prints a Markdown table; four minutes on 2 cores.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from diffusion.editing import METHODS
from diffusion.editing.operators import masked
from diffusion.grids import trailing
from diffusion.oracles import correlated
from diffusion.samplers import SAMPLERS
from diffusion.sampling import prior, sample
from diffusion.schedules import SCHEDULES, Schedule

DRAWS = flags.DEFINE_integer("draws", 50_000, "samples of each method", lower_bound=2)

PAIR, COVARIANCE = (1, 2, 1), 0.25 * np.array([[1, 0.9], [0.9, 1]])
MASK, KNOWN = np.array([1.0, 0]).reshape(1, *PAIR), np.array([0.8, 0]).reshape(1, *PAIR)
MEAN, VARIANCE = 0.72, 0.0475
STEPS, MORE_STEPS = 100, (100, 250, 1000)

CASES = [
    ("replacement", "replacement", {}),
    *((f"RePaint, jump 1, {n} resamplings", "repaint", {"jump": 1, "resamplings": n}) for n in (2, 5, 10, 20, 40)),
    ("RePaint, jump 10, 10 resamplings", "repaint", {"jump": 10, "resamplings": 10}),
    ("projection (DDNM)", "projection", {}),
    ("DPS, zeta = 1", "dps", {}),
    ("DPS, zeta = .1", "dps", {"zeta": 0.1}),
    ("PiGDM, variance 1", "pigdm", {}),
    ("PiGDM, variance .25", "pigdm", {"variance": 0.25}),
    ("exact covariance", "covariance", {"solves": 1}),
]


def levels(schedule: Schedule, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha, sigma of the grid in float64, data's at its end."""
    with jax.enable_x64(True):
        alpha, sigma = (np.array(part) for part in schedule.level(jnp.asarray(grid, float)))
    alpha[np.asarray(grid) == 0], sigma[np.asarray(grid) == 0] = 1, 0
    return alpha, sigma


def moments(schedule: Schedule, grid: np.ndarray) -> tuple[float, float]:
    """Of the unknown pixel, by the recursion of RePaint's algorithm 1 with ancestral steps, in numpy float64."""
    alpha, sigma = levels(schedule, grid)
    mean, spread = np.zeros(2), sigma[0] ** 2 * np.eye(2)
    for a, s, a_next, s_next in zip(alpha, sigma, alpha[1:], sigma[1:]):
        if s_next > s:  # back up: q(x_t | x_s)
            share = a_next / a
            mean, spread = share * mean, share**2 * spread + (s_next**2 - share**2 * s**2) * np.eye(2)
            continue
        gain = a * COVARIANCE @ np.linalg.inv(a**2 * COVARIANCE + s**2 * np.eye(2))  # E[x0 | x_t] of mean 0
        beta = s**2 - (a / a_next * s_next) ** 2
        step = a_next * beta / s**2 * gain + a / a_next * s_next**2 / s**2 * np.eye(2)
        mean, spread = step @ mean, step @ spread @ step.T + s_next**2 * beta / s**2 * np.eye(2)
        mean, spread = np.array([a_next * KNOWN.flat[0], mean[1]]), np.diag([s_next**2, spread[1, 1]])
    return float(mean[1]), float(spread[1, 1])


def conditional_moments(schedule: Schedule, grid: np.ndarray) -> tuple[float, float]:
    """Of ancestral steps with the denoiser of N(MEAN, VARIANCE) itself: what the exact covariance should give."""
    alpha, sigma = levels(schedule, grid)
    mean, variance = 0.0, sigma[0] ** 2
    for a, s, a_next, s_next in zip(alpha, sigma, alpha[1:], sigma[1:]):
        gain, beta = a * VARIANCE / (a**2 * VARIANCE + s**2), s**2 - (a / a_next * s_next) ** 2
        on_x0, on_x = a_next * beta / s**2, a / a_next * s_next**2 / s**2
        mean = on_x0 * (MEAN + gain * (mean - a * MEAN)) + on_x * mean
        variance = (on_x0 * gain + on_x) ** 2 * variance + s_next**2 * beta / s**2
    return float(mean), float(variance)


def drawn(schedule: Schedule, method: str, settings: dict, steps: int, n: int) -> tuple[float, float]:
    """Mean and variance of the unknown pixel over n draws."""
    held = METHODS[method](schedule, masked(jnp.asarray(MASK)), jnp.asarray(KNOWN), **settings)
    times = held.grid(trailing(schedule, steps))
    denoise = held.limit(held.guide(correlated(schedule, jnp.zeros(PAIR), jnp.asarray(COVARIANCE))))
    sampler = held.sampler(SAMPLERS["ancestral"](schedule))
    keys = jax.vmap(jax.random.key)(jnp.arange(n))
    x = jax.jit(lambda keys: sample(keys, denoise, sampler, times, prior(keys, PAIR, schedule)))(keys)
    x = np.asarray(x, np.float64)[:, 0, 1, 0]
    return x.mean(), x.var()


def main(argv) -> None:
    schedule = SCHEDULES["cosine"]()
    print(f"cosine schedule, {STEPS} ancestral steps, {DRAWS.value} draws; true mean {MEAN}, variance {VARIANCE}\n")
    print("| method | drawn | " + " | ".join(f"recursion, {steps} steps" for steps in MORE_STEPS) + " |")
    print("|---|---|" + "---|" * len(MORE_STEPS))
    for name, method, settings in CASES:
        cells = [drawn(schedule, method, settings, STEPS, DRAWS.value)]
        if method in ("replacement", "repaint"):
            walk = METHODS[method](schedule, None, None, **settings).grid
            cells += [moments(schedule, walk(trailing(schedule, steps))) for steps in MORE_STEPS]
        if method == "covariance":
            cells += [conditional_moments(schedule, trailing(schedule, steps)) for steps in MORE_STEPS]
        texts = ["{:.3f}, {:.4f}".format(*cell) for cell in cells] + [""] * (1 + len(MORE_STEPS) - len(cells))
        print(f"| {name} | " + " | ".join(texts) + " |", flush=True)


if __name__ == "__main__":
    app.run(main)
