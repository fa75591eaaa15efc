"""Beside Hugging Face diffusers: x after every step, from the same noise and the same closed-form model.

The numbers are its own (golden/make_diffusers.py) and are read here without it. SAME holds the schedulers that walk as
our samplers do. Where one does something else, a test reproduces what it does from our parts, so that nothing else
differs, and names the law that it breaks:

    DDPM              the last step adds noise unless its timestep is 0, which trailing grids do not reach
    DDIM              a step goes to timestep t - T // N, which is not the next one unless N divides T
    DDIM              eps is kept where x0 was clipped
    on a table        62 of the 1,000 trailing grids have one timestep more, -1; DDPM then loses the image
    Euler             with churn the network sees neither the noise nor its level, and the last step adds it as well
    DPM-Solver++ 3M   half of the second derivative's term, and less 1/2 with noise (sde)
    the prior         has std 1, and sqrt(80^2 + 1) for EDM, where ours has sigma(1); Euler's, Heun's and flow's agree
    thresholding      the dynamic one is clipping to [-1, 1] unless sample_max_value is raised
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.grids import GRIDS
from diffusion.guidance import dynamic_threshold, static_threshold
from diffusion.oracles import mixture, predict
from diffusion.samplers import SAMPLERS
from diffusion.sampling import normal, prior, stream, trajectory
from diffusion.schedules import SCHEDULES

GOLDEN = np.load(pathlib.Path(__file__).with_name("golden") / "diffusers.npz", allow_pickle=False)
DATA = {"weights": (0.5, 0.3, 0.2), "means": ((-0.6, 0.2, 0.4), (0.5, -0.3, 0.1), (0.1, 0.7, -0.5)), "variance": 0.04}
SHAPE = (2, 2, 3)
ROUNDING = {"float64": 2e-14, "float32": 1e-5}  # a unit in the last place over alpha(1) = .006: x0 is made of eps


class Same(NamedTuple):
    """What we call it; the states compared are [:ends], to `scale` times the rounding."""

    sampler: str
    settings: dict[str, Any] = {}
    schedule: str = "linear"
    schedule_settings: dict[str, Any] = {}
    grid: str = "trailing"
    ends: int | None = None
    scale: float = 1.0


SAME = {
    "ddpm small": Same("ancestral", ends=-1),  # the last step of a trailing DDPM has its test below
    "ddpm large": Same("ancestral", {"variance": "large"}, ends=-1),
    "ddpm cosine": Same("ancestral", schedule="cosine_discrete", ends=-1, scale=100.0),  # alpha(1) is 5e-5
    "ddpm linspace": Same("ancestral", grid="uniform"),
    "ddpm 30 steps": Same("ancestral", ends=-1),
    "ddim 0": Same("ddim"),
    "ddim .5": Same("ddim", {"eta": 0.5}),
    "ddim 1": Same("ddim", {"eta": 1.0}),
    "ddim leading": Same("ddim", grid="leading"),
    "ddim zero terminal": Same("ddim", schedule_settings={"zero_terminal": True}),
    "dpm++ 2m": Same("dpmpp_2m"),
    "dpm++ 2m, 20 steps": Same("dpmpp_2m"),
    "dpm++ 2m sde": Same("dpmpp_2m", {"eta": 1.0}),
    "unipc 2": Same("unipc"),
    "unipc 3": Same("unipc", {"order": 3}, ends=-2),  # theirs falls to second order in the last step but one
    "euler": Same("euler"),
    "euler ancestral": Same("euler_ancestral"),
    "heun": Same("heun"),
    "edm euler": Same("euler", schedule="edm", grid="karras", scale=100.0),  # x begins at 80
    "flow euler": Same("euler", schedule="flow", grid="uniform"),
}
RUNS = [(name, "float64") for name in SAME] + [(name, "float32") for name in SAME if f"{name}/float32" in GOLDEN]


def keys():
    return jax.vmap(jax.random.key)(jnp.arange(2))


def noise(i):
    return normal(stream(keys(), i), SHAPE)


def times_of(name):
    return (GOLDEN[f"{name}/timesteps"].astype(np.float64) + 1) / 1000


def table(wrap=lambda denoise, schedule: denoise):
    schedule = SCHEDULES["linear"]()
    return schedule, wrap(mixture(schedule, **DATA), schedule)


@pytest.mark.parametrize("name, dtype", RUNS)
def test_every_step_is_that_of_diffusers(name, dtype):
    case, theirs = SAME[name], GOLDEN[name if dtype == "float64" else f"{name}/float32"]
    with jax.enable_x64(dtype == "float64"):
        schedule = SCHEDULES[case.schedule](**case.schedule_settings)
        sampler, times = SAMPLERS[case.sampler](schedule, **case.settings), GRIDS[case.grid](schedule, len(theirs) - 1)
        ours = trajectory(keys(), mixture(schedule, **DATA), sampler, times, jnp.asarray(theirs[0]))
    assert ours.dtype == theirs.dtype == dtype
    np.testing.assert_allclose(ours[: case.ends], theirs[: case.ends], rtol=0, atol=case.scale * ROUNDING[dtype])


def test_heun_calls_the_network_as_often():
    assert len(times_of("heun")) == SAMPLERS["heun"](SCHEDULES["linear"]()).calls(np.linspace(1, 0, 11)) == 19


@pytest.mark.parametrize("name", ["ddpm small", "ddpm large"])
def test_their_ddpm_adds_noise_in_the_last_step(name, x64):
    """Law 3. Timestep 0 alone is spared, and this one is 99. The small variance is 0 there, but clamped to 1e-20."""
    schedule, denoise = table()
    theirs, std = GOLDEN[name], {"ddpm small": 1e-10, "ddpm large": schedule.level(0.1).sigma}[name]
    np.testing.assert_allclose((theirs[-1] - denoise(theirs[-2], 0.1).x0) / std, noise(10), rtol=0, atol=1e-5)


def test_their_ddim_does_not_step_to_the_next_timestep(x64):
    """Law 1. It goes down by T // N = 76, the grid by 77; and it ends at timestep 0, not in data (law 3)."""
    schedule, denoise = table()
    step, path = SAMPLERS["ddim"](schedule).step, GOLDEN["ddim 13 steps"]
    for t, x, theirs in zip(times_of("ddim 13 steps"), path[:-1], path[1:], strict=True):
        ours, _ = step(keys(), denoise, x, (), t, t - 0.076)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=ROUNDING["float64"])
    assert t - 0.076 == pytest.approx(0.001)


def test_their_trailing_timesteps_can_be_one_too_many():
    """Laws 1 and 3. They come of an arange by T / N, in floating point."""
    schedule, _ = table()
    assert len(GOLDEN["miscounted"]) == 62
    for steps in map(int, GOLDEN["miscounted"]):
        times = GRIDS["trailing"](schedule, steps)
        assert len(times) == steps + 1 and times[-1] == 0 and np.all(np.diff(times) < 0)


def test_their_ddpm_then_gives_the_mean_of_the_data_for_every_image(x64):
    """The timestep is -1, the index of the noisiest level."""
    _, denoise = table()
    theirs, mean = GOLDEN["ddpm 61 steps"], np.dot(DATA["weights"], DATA["means"])
    assert len(theirs) == 63 and times_of("ddpm 61 steps")[-1] == 0
    np.testing.assert_allclose(theirs[-1], denoise(theirs[-2], 1.0).x0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(theirs[-1], np.broadcast_to(mean, theirs[-1].shape), rtol=0, atol=5e-3)


def clip_x0_alone(denoise, schedule):
    def clipped(x, t):
        guess = denoise(x, t)
        return guess._replace(x0=jnp.clip(guess.x0, -0.3, 0.3))

    return clipped


CLIPS = {
    "ddim clipped": clip_x0_alone,
    "ddim clipped, eps rederived": lambda denoise, schedule: static_threshold(denoise, schedule, 0.3),
}


@pytest.mark.parametrize("name", CLIPS)
def test_their_ddim_rederives_eps_only_if_told(name, x64):
    """Law 6. It is told by use_clipped_model_output."""
    schedule, denoise = table(CLIPS[name])
    start, times = jnp.asarray(GOLDEN[name][0]), GRIDS["trailing"](schedule, 10)
    ours = trajectory(keys(), denoise, SAMPLERS["ddim"](schedule), times, start)
    np.testing.assert_allclose(ours, GOLDEN[name], rtol=0, atol=ROUNDING["float64"])


def test_their_churn_is_noise_that_the_network_does_not_see(x64):
    """EDM's algorithm 2 evaluates at the raised level; and the last step's noise stays in the image (law 3)."""
    schedule, denoise = table()
    path, times = GOLDEN["euler churn"], times_of("euler churn")
    ratios = np.append(schedule.level(times).ratio, 0.0)
    for i, t in enumerate(times):
        now, after, raised = ratios[i], ratios[i + 1], 1.4 * ratios[i]  # by S_churn / N
        y = path[i] * np.sqrt(1 + now**2) + np.sqrt(raised**2 - now**2) * noise(i + 1)
        y += (after - raised) * denoise(path[i], t).eps
        np.testing.assert_allclose(y / np.sqrt(1 + after**2), path[i + 1], rtol=0, atol=ROUNDING["float64"])


@pytest.mark.parametrize("name, eta", [("dpm++ 3m", 0.0), ("dpm++ 3m sde", 1.0)])
def test_their_third_order_is_not_one(name, eta, x64):
    """Law 1. Taylor's h^2 x0'' weighs r phi_3(-r), with r = (1 + eta) h; theirs half of it, and 1/2 less with noise."""
    schedule, denoise = table()
    x, times = GOLDEN[name], np.array([1.0, 0.9, 0.8, 0.7])
    x0 = [denoise(*each).x0 for each in zip(x, times[:3])]
    level = schedule.level(times)
    (h2, h1, h), r = np.diff(level.logsnr / 2), (1 + eta) * np.diff(level.logsnr / 2)[-1]
    slope, earlier = (x0[2] - x0[1]) / h1, (x0[1] - x0[0]) / h2
    second = 2 * (slope - earlier) / (h1 + h2)
    phi1 = -np.expm1(-r) / r
    phi2 = (1 - phi1) / r
    phi3 = (1 / 2 - phi2) / r
    known = level.sigma[3] / level.sigma[2] * np.exp(-eta * h) * x[2]
    known += level.sigma[3] * np.sqrt(-np.expm1(-2 * eta * h)) * noise(3)
    known += level.alpha[3] * r * (phi1 * x0[2] + phi2 * h * (slope + second * h1 / 2))
    weight = r * phi3 / 2 - eta / 2
    np.testing.assert_allclose(
        (x[3] - known) / level.alpha[3], weight * h**2 * second, rtol=0, atol=ROUNDING["float64"]
    )


PRIORS = {
    **{name: ("linear", 1.0000202) for name in ("ddpm small", "ddim 0", "dpm++ 2m", "unipc 2")},
    **{name: ("linear", 1.0) for name in ("euler", "euler ancestral", "heun")},
    "edm euler": ("edm", 1.0000781),
    "flow euler": ("flow", 1.0),
}


@pytest.mark.parametrize("name", PRIORS)
def test_their_prior_is_sigma_at_the_start_or_nearly(name, x64):
    """Law 9. 1.00002 is 1 / sigma(1); EDM's marginal has std sqrt(80^2 + .25), and its paper starts from 80."""
    schedule, ratio = PRIORS[name]
    np.testing.assert_allclose(GOLDEN[name][0] / prior(keys(), SHAPE, SCHEDULES[schedule]()), ratio, rtol=1e-7)


@pytest.mark.parametrize("largest", [1.0, 100.0])
def test_their_dynamic_thresholding_is_static_unless_told(largest, x64):
    """Law 6. Its s is cut to sample_max_value, 1 by default."""
    schedule, x0 = SCHEDULES["linear"](), 2 * noise(0)
    denoise = dynamic_threshold(lambda x, t: predict(x0, x, schedule.level(t)), schedule)
    ours = jnp.clip(x0, -1, 1) if largest == 1 else denoise(x0, 1.0).x0
    np.testing.assert_allclose(ours, GOLDEN[f"thresholded/{largest}"], rtol=0, atol=1e-15)
