"""The pictures of docs/diffusion.md, drawn from the library itself.

pip install -r requirements-docs.txt
python -m docs.figures
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.grids import logsnr
from diffusion.oracles import mixture
from diffusion.samplers import SAMPLERS
from diffusion.sampling import prior, trajectory
from diffusion.schedules import COMPOSED, LEARNED, SCHEDULES

IMAGES = pathlib.Path(__file__).parent / "images"
INK, QUIET, LINE = "#333333", "#d9d9d9", "#1f5f8b"
SHADES = ("#f7ecdf", "#f1dcc4", "#eacaa5", "#e2b684")
COLOURS = ("#1f5f8b", "#b5432f", "#3a7d5c", "#6b4c8f")
WEIGHTS, MEANS, WITHIN = np.array([0.4, 0.35, 0.25]), np.array([[-0.65, -0.45], [0.75, -0.35], [-0.05, 0.75]]), 0.02
STEPS, SEEDS, DRAWN, SIDE = 16, 100, (0, 2, 5, 10), 2.0


def schedules() -> dict:
    """Panel title -> Schedule, each as its defaults are unless the title says otherwise."""
    cosine, learned = SCHEDULES["cosine"](), LEARNED["monotone"]()
    params = learned.init(jax.random.key(0))
    return {name: builder() for name, builder in SCHEDULES.items()} | {
        "linear, zero terminal": SCHEDULES["linear"](zero_terminal=True),
        "flow, shift 3": SCHEDULES["flow"](shift=3.0),
        "cosine shifted to 256": COMPOSED["shifted"](cosine, resolution=256),
        "cosine interpolated, 256": COMPOSED["interpolated"](cosine),
        "monotone, untrained": learned.schedule(params),
    }


def style(plt) -> None:
    plt.rcParams.update(
        {
            "font.size": 8,
            "axes.titlesize": 9,
            "axes.edgecolor": QUIET,
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.major.size": 2,
            "ytick.major.size": 2,
            "savefig.dpi": 130,
        }
    )


def draw_schedules(plt) -> None:
    """logsnr over t, on one scale; what leaves it goes on to infinity or to its limit."""
    panels, low, high = schedules(), -17, 17
    figure, axes = plt.subplots(3, 5, figsize=(9.2, 5.2), sharex=True, sharey=True, layout="constrained")
    for axis, (title, schedule) in zip(axes.flat, panels.items(), strict=True):
        t = np.arange(1, 1001) / 1000
        with np.errstate(divide="ignore"):
            axis.plot(t, np.asarray(schedule.level(jnp.asarray(t)).logsnr), color=LINE, linewidth=1.6)
        axis.axhline(0, color=QUIET, linewidth=0.8, zorder=0)
        axis.set(title=title, xlim=(0, 1), ylim=(low, high), xticks=(0, 0.5, 1), yticks=(-15, -10, -5, 0, 5, 10, 15))
        axis.set_xticklabels(("0", "0.5", "1"))
    figure.supxlabel("t: data at 0, noise at 1", fontsize=9)
    figure.supylabel("logsnr", fontsize=9)
    save(plt, figure, "schedules.png")


def draw_samplers(plt) -> None:
    """x at each step of a few paths, and where all of them end, over the density of the data."""
    schedule = SCHEDULES["cosine"](logsnr_min=-7.0)
    denoise, times = mixture(schedule, WEIGHTS, MEANS, WITHIN), logsnr(schedule, STEPS)
    keys = jax.vmap(jax.random.key)(jnp.arange(SEEDS))
    x = prior(keys, (1, 1, 2), schedule)
    figure, axes = plt.subplots(2, 5, figsize=(9.2, 4.2), sharex=True, sharey=True, layout="constrained")
    for axis, (name, builder) in zip(axes.flat, SAMPLERS.items(), strict=True):
        path = np.asarray(jax.jit(lambda x, b=builder: trajectory(keys, denoise, b(schedule), times, x))(x))
        path = path.reshape(len(times), SEEDS, 2)
        shade(axis)
        axis.scatter(*path[-1].T, s=4, color=INK, alpha=0.35, linewidth=0, zorder=2)
        for seed, colour in zip(DRAWN, COLOURS, strict=True):
            axis.plot(*path[:, seed].T, color=colour, linewidth=1, marker=".", markersize=2.2, zorder=3)
            axis.scatter(*path[0, seed], s=14, color="white", edgecolor=colour, zorder=4)
            axis.scatter(*path[-1, seed], s=16, color=colour, edgecolor="white", linewidth=0.6, zorder=5)
        axis.set(title=name, xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), xticks=(), yticks=(), aspect="equal")
    save(plt, figure, "samplers.png")


def shade(axis) -> None:
    """The density of the data."""
    side = np.linspace(-SIDE, SIDE, 160)
    grid = np.stack(np.meshgrid(side, side), -1)[:, :, None]
    density = np.exp(-np.sum((grid - MEANS) ** 2, -1) / (2 * WITHIN)) @ WEIGHTS
    axis.contourf(side, side, density / density.max(), levels=(0.02, 0.1, 0.3, 0.6, 1), colors=SHADES)


def save(plt, figure, name: str) -> None:
    figure.savefig(IMAGES / name, metadata={"Software": None})
    plt.close(figure)
    print(IMAGES / name)


def main() -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    jax.config.update("jax_enable_x64", True)
    style(plt)
    draw_schedules(plt)
    draw_samplers(plt)


if __name__ == "__main__":
    main()
