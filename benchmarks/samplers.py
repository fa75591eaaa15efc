"""Every sampler, schedule and prediction against closed forms.

    python -m benchmarks.samplers [--quick] [--out=FILE]

Prints three tables as Markdown: the path on a Gaussian oracle against the published recursion in numpy float64
(benchmarks/recursions.py); the moments on a mixture of three Gaussians in the plane; the order of convergence. About
eight minutes on 2 cores, one with --quick. With --out the whole first table, a row for each triple, goes to FILE.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.orders import CASES, FRAC, MEAN, VARIANCE, order, x0_of
from benchmarks.recursions import RECURSIONS
from diffusion.grids import GRIDS
from diffusion.oracles import gaussian, mixture
from diffusion.prediction import PARAMETERISATIONS, Denoise, Parameterisation, denoiser, target
from diffusion.samplers import SAMPLERS
from diffusion.sampling import normal, prior, sample, stream, trajectory
from diffusion.schedules import COMPOSED, SCHEDULES, Schedule

QUICK = flags.DEFINE_bool("quick", False, "fewer schedules, steps and draws")
OUT = flags.DEFINE_string("out", "", "file for the whole first table")

SHAPE = (2, 3, 1)
WEIGHTS, MEANS, WITHIN = np.array([0.5, 0.3, 0.2]), np.array([[-0.6, -0.3], [0.7, -0.4], [0.1, 0.8]]), 0.02


def schedules() -> dict[str, Schedule]:
    cosine = SCHEDULES["cosine"]()
    built = {name: builder() for name, builder in SCHEDULES.items()}
    built["linear, zero terminal"] = SCHEDULES["linear"](zero_terminal=True)
    built["shifted"] = COMPOSED["shifted"](cosine, resolution=256)
    built["interpolated"] = COMPOSED["interpolated"](cosine)
    return {name: built[name] for name in ("linear", "flow")} if QUICK.value else built


def table(columns, rows) -> str:
    lines = [["", *columns], ["---"] * (len(columns) + 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def worst_of(cells: dict, *pattern: str | None) -> str:
    """Over the triples (case, schedule, prediction) that match; None matches any. By place: 'flow' is two things."""
    found = [value for key, value in cells.items() if all(p in (None, k) for p, k in zip(pattern, key, strict=True))]
    return f"{max(found):.0e}" if found else "-"


def keys(n: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.arange(n))


def perfect(schedule: Schedule, kind: str, parameterisation: Parameterisation) -> Denoise:
    """The denoiser of a network that knows only what it is fed, and says what it should of N(MEAN, VARIANCE)."""
    oracle = gaussian(schedule, MEAN, VARIANCE)

    def network(scaled, noise, cond):
        if kind == "edm":
            t = schedule.time(-8 * noise[0])
        else:
            t = (noise[0] + 1) / schedule.steps if schedule.steps else noise[0] / 1000
        level = schedule.level(t)
        guess = oracle(scaled / parameterisation.scale_input(level), t)
        out = target(parameterisation, guess.x0, guess.eps, level)
        return jnp.concatenate([out, jnp.full_like(out, 2 * FRAC - 1)], axis=-1)

    return denoiser(network, {}, schedule, parameterisation)


def published(case: str, schedule: Schedule, times, x) -> np.ndarray:
    """The path of the recursion, in numpy, with the noises that the sampler draws from its keys."""
    name, settings, other, _ = CASES[case]
    alpha, sigma = map(np.array, schedule.level(times))
    alpha[-1], sigma[-1] = 1, 0
    step_keys = [stream(keys(len(x)), k + 1) for k in range(len(times) - 1)]
    noises = [np.asarray(normal(each, SHAPE)) for each in step_keys]
    more = dict(other or settings)
    if name == "predictor_corrector":
        more["langevin"] = [[np.asarray(normal(stream(each, 0), SHAPE))] for each in step_keys]
    return np.stack(list(RECURSIONS[name](alpha, sigma, x, noises, x0_of, **more)))


def differences(case: str, schedule: Schedule, denoisers: list[Denoise], steps: int) -> list[float]:
    """For each denoiser the worst difference from the recursion, over the path and two grids."""
    name, settings, _, _ = CASES[case]
    sampler = SAMPLERS[name](schedule, **settings)
    x = np.asarray(prior(keys(3), SHAPE, schedule))

    @jax.jit
    def walk(kind, times):
        return trajectory(keys(3), lambda x, t: jax.lax.switch(kind, denoisers, x, t), sampler, times, x)[1:]

    worst = np.zeros(len(denoisers))
    for grid in ("trailing", "logsnr"):
        times = GRIDS[grid](schedule, steps)
        if name == "unipc" and schedule.level(1.0).alpha == 0:  # its authors' formulas have no value there
            times = np.append(times[:-1] * 0.999, 0)
        path = published(case, schedule, times, x)
        worst = np.maximum(worst, [np.abs(walk(kind, times) - path).max() for kind in range(len(denoisers))])
    return worst.tolist()


def all_paths(steps: int) -> tuple[dict, list[str]]:
    """({(case, schedule, prediction): worst difference}, the refusals of singular pairs)."""
    cells, refused = {}, []
    for name, schedule in schedules().items():
        denoisers = {}
        for kind, builder in PARAMETERISATIONS.items():
            try:
                denoisers[kind] = perfect(schedule, kind, builder(schedule))
            except ValueError as error:
                refused.append(f"{name}: {error}")
        for case in CASES:
            worst = differences(case, schedule, list(denoisers.values()), steps)
            cells |= {(case, name, kind): value for kind, value in zip(denoisers, worst, strict=True)}
    return cells, refused


def distances(images) -> np.ndarray:
    """Of draws [n 2] from the mixture: of the mean (Euclidean) and of the covariance (Frobenius)."""
    mean = WEIGHTS @ MEANS
    covariance = (MEANS - mean).T * WEIGHTS @ (MEANS - mean) + WITHIN * np.eye(2)
    return np.array([np.linalg.norm(images.mean(0) - mean), np.linalg.norm(np.cov(images.T) - covariance)])


def floor(n: int, repeats: int = 50) -> np.ndarray:
    """The same of n true draws, root mean square."""
    rng = np.random.default_rng(0)
    draws = [MEANS[rng.choice(3, n, p=WEIGHTS)] + WITHIN**0.5 * rng.normal(size=(n, 2)) for _ in range(repeats)]
    return np.sqrt(np.mean([distances(each) ** 2 for each in draws], axis=0))


def mixture_errors(case: str, n: int, steps: list[int]) -> list[np.ndarray]:
    name, settings, _, _ = CASES[case]
    schedule = SCHEDULES["cosine"]()
    oracle, sampler = mixture(schedule, WEIGHTS, MEANS, WITHIN), SAMPLERS[name](schedule, **settings)

    def denoise(x, t):
        guess = oracle(x, t)
        return guess._replace(frac=jnp.full_like(x, FRAC))

    walk = jax.jit(lambda times: sample(keys(n), denoise, sampler, times, prior(keys(n), (1, 1, 2), schedule)))
    return [distances(np.asarray(walk(GRIDS["logsnr"](schedule, k))).reshape(n, 2)) for k in steps]


def main(argv):
    del argv
    jax.config.update("jax_enable_x64", True)
    quick = QUICK.value
    walked, draws = (10, 2048) if quick else (20, 16384)
    steps = [10, 50] if quick else [10, 50, 250, 1000]

    cells, refused = all_paths(walked)
    cases, columns, kinds = (list(dict.fromkeys(part)) for part in zip(*cells))
    worst = "worst absolute difference from the recursion on the path"
    print(f"1. Gaussian oracle, {walked} steps, {len(cells)} triples: {worst}, grids trailing and logsnr.\n")
    print(table(columns, [[case, *(worst_of(cells, case, name, None) for name in columns)] for case in cases]))
    print(table(columns, [[kind, *(worst_of(cells, None, name, kind) for name in columns)] for kind in kinds]))
    print("Refused when built:", *refused, sep="\n- ", end="\n\n")
    if OUT.value:
        rows = [[*key, f"{value:.1e}"] for key, value in cells.items()]
        pathlib.Path(OUT.value).write_text(table(["schedule", "prediction", worst], rows))

    print(f"2. Mixture, cosine schedule, logsnr grid, {draws} draws: error of the mean / of the covariance.\n")
    rows = [[case, *(f"{m:.4f} / {c:.4f}" for m, c in mixture_errors(case, draws, steps))] for case in CASES]
    rows.append(["true draws", *["{:.4f} / {:.4f}".format(*floor(draws))] * len(steps)])
    print(table([f"{k} steps" for k in steps], rows))

    print("3. Order: slope of the variance's error on the Gaussian, 80 to 640 steps, logsnr -8 to 4.\n")
    stated = {case: each[-1] for case, each in CASES.items() if each[-1]}
    rows = [[case, p, f"{order(case, [80, 160, 320, 640]):.2f}"] for case, p in stated.items()]
    print(table(["stated", "measured"], rows))


if __name__ == "__main__":
    app.run(main)
