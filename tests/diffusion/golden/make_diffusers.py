"""Hugging Face diffusers' schedulers on one closed-form model, step by step, into diffusers.npz beside this file.

From the root of the repository:

    python3.11 -m venv /tmp/diffusers
    /tmp/diffusers/bin/pip install torch==2.13.0 diffusers==0.42.1 -r requirements.txt
    /tmp/diffusers/bin/python -m tests.diffusion.golden.make_diffusers

The noise of example i in step k is that of our sampling loop. Nothing else is ours: levels are the schedulers' own,
and the model is written out once more in torch. The schedulers compute in float32 whatever they are given, so that
their mathematics is told from their rounding by a run with float64 in the place of float32 in their source. The first
case of each is run as shipped too.
"""

import importlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from diffusion.sampling import normal, stream

SHAPE, SEEDS = (2, 2, 3), (0, 1)
WEIGHTS, MEANS, VARIANCE = (0.5, 0.3, 0.2), ((-0.6, 0.2, 0.4), (0.5, -0.3, 0.1), (0.1, 0.7, -0.5)), 0.04


def posterior_mean(x, alpha, sigma):
    """E[x0 | x] of three Gaussians over the channels, which are the last axis."""
    means, weights = (torch.tensor(each, dtype=x.dtype) for each in (MEANS, WEIGHTS))
    total = alpha**2 * VARIANCE + sigma**2
    offset = x[..., None, :] - alpha * means
    share = torch.softmax(weights.log() - (offset**2).sum(-1) / (2 * total), -1)[..., None]
    return (share * (means + alpha * VARIANCE / total * offset)).sum(-2)


def on_table(scheduler, sample, t):
    """What a network trained on DDPM's levels says at timestep t, in the terms that the scheduler asks for."""
    x, alpha_bar = scheduler.scale_model_input(sample, t), scheduler.alphas_cumprod[int(t)]
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x0 = posterior_mean(x, alpha, sigma)
    eps = (x - alpha * x0) / sigma
    return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0}[scheduler.config.prediction_type]


def on_flow(scheduler, sample, t):
    """eps - x0, with x_t = (1 - sigma) x0 + sigma eps."""
    sigma = t / 1000
    return (sample - posterior_mean(sample, 1 - sigma, sigma)) / sigma


def on_edm(scheduler, sample, t):
    """F of D = c_skip x + c_out F (Karras et al. 2022, table 1), with sigma_data = .5."""
    scheduler.scale_model_input(sample, t)
    sigma = torch.exp(4 * t)
    total = sigma**2 + 0.25
    return (posterior_mean(sample, 1.0, sigma) - 0.25 / total * sample) * total.sqrt() / (0.5 * sigma)


class Case(NamedTuple):
    """A scheduler's class, its settings, the arguments of its step."""

    scheduler: str
    settings: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    steps: int = 10
    model: Callable = on_table


TABLE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
PLAIN = {"clip_sample": False}
CLIPPED = {"clip_sample": True, "clip_sample_range": 0.3}
ZERO_TERMINAL = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
THIRD = {"solver_order": 3, "solver_type": "heun", "lower_order_final": False}

CASES = {
    "ddpm small": Case("DDPMScheduler", PLAIN),
    "ddpm large": Case("DDPMScheduler", PLAIN | {"variance_type": "fixed_large"}),
    "ddpm cosine": Case("DDPMScheduler", PLAIN | {"beta_schedule": "squaredcos_cap_v2"}),
    "ddpm linspace": Case("DDPMScheduler", PLAIN | {"timestep_spacing": "linspace"}),
    "ddpm 30 steps": Case("DDPMScheduler", PLAIN, steps=30),
    "ddpm 61 steps": Case("DDPMScheduler", PLAIN, steps=61),
    "ddim 0": Case("DDIMScheduler", PLAIN),
    "ddim .5": Case("DDIMScheduler", PLAIN, {"eta": 0.5}),
    "ddim 1": Case("DDIMScheduler", PLAIN, {"eta": 1.0}),
    "ddim leading": Case("DDIMScheduler", PLAIN | {"timestep_spacing": "leading"}),
    "ddim zero terminal": Case("DDIMScheduler", PLAIN | ZERO_TERMINAL),
    "ddim 13 steps": Case("DDIMScheduler", PLAIN, steps=13),
    "ddim clipped": Case("DDIMScheduler", CLIPPED),
    "ddim clipped, eps rederived": Case("DDIMScheduler", CLIPPED, {"use_clipped_model_output": True}),
    "dpm++ 2m": Case("DPMSolverMultistepScheduler"),
    "dpm++ 2m, 20 steps": Case("DPMSolverMultistepScheduler", steps=20),
    "dpm++ 2m sde": Case("DPMSolverMultistepScheduler", SDE),
    "dpm++ 3m": Case("DPMSolverMultistepScheduler", THIRD),
    "dpm++ 3m sde": Case("DPMSolverMultistepScheduler", SDE | THIRD),
    "unipc 2": Case("UniPCMultistepScheduler"),
    "unipc 3": Case("UniPCMultistepScheduler", {"solver_order": 3}),
    "euler": Case("EulerDiscreteScheduler"),
    "euler churn": Case("EulerDiscreteScheduler", {}, {"s_churn": 4.0}),
    "euler ancestral": Case("EulerAncestralDiscreteScheduler"),
    "heun": Case("HeunDiscreteScheduler"),
    "edm euler": Case("EDMEulerScheduler", model=on_edm),
    "flow euler": Case("FlowMatchEulerDiscreteScheduler", model=on_flow),
}
RESCALED = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")  # walk x / alpha


class Double:
    """A module in which float32 means float64."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


def build(case: Case, dtype: str):
    """(the scheduler, its module), the module's own copy for this dtype."""
    torch.set_default_dtype(getattr(torch, dtype))
    module = importlib.reload(importlib.import_module(getattr(diffusers, case.scheduler).__module__))
    if dtype == "float64":
        module.torch, module.np = Double(torch), Double(np)
    settings = TABLE | case.settings if case.model is on_table else case.settings
    scheduler = getattr(module, case.scheduler)(**settings)
    scheduler.set_timesteps(case.steps)
    return scheduler, module


def draw(i: int, dtype: str):
    """The i-th noise of our sampling loop, b h w c: schedulers do not mind where the channels are."""
    keys = jax.vmap(jax.random.key)(jnp.array(SEEDS))
    return torch.from_numpy(np.array(normal(stream(keys, i), SHAPE, dtype)))


def walk(case: Case, dtype: str):
    """(x at each level of the way [levels b h w c], the network's timesteps)."""
    scheduler, module = build(case, dtype)
    sample = draw(0, dtype) * getattr(scheduler, "init_noise_sigma", 1.0)
    path = []

    def record():
        level = scheduler.sigmas[scheduler.step_index or 0] if case.scheduler in RESCALED else torch.zeros(())
        path.append((sample / (1 + level**2).sqrt()).numpy())

    record()
    module.randn_tensor = lambda *_, **__: draw(len(path), dtype)
    for i, t in enumerate(scheduler.timesteps):
        sample = scheduler.step(case.model(scheduler, sample, t), t, sample, **case.arguments).prev_sample
        if getattr(scheduler, "state_in_first_order", True) or i == len(scheduler.timesteps) - 1:
            record()  # Heun's first halves are no levels of the way; its last step has no second
    return np.stack(path), scheduler.timesteps.numpy()


def thresholded(largest: float):
    """Dynamic thresholding of the noise of the prior as an x0, twice as large, with sample_max_value = largest."""
    case = Case("DDPMScheduler", {"thresholding": True, "sample_max_value": largest, "prediction_type": "sample"})
    scheduler, _ = build(case, "float64")
    x0 = 2 * draw(0, "float64")
    return scheduler.step(x0, scheduler.timesteps[0], x0).pred_original_sample.numpy()


def miscounted():
    """The numbers of steps up to T for which trailing timesteps are not as many."""
    scheduler, _ = build(CASES["ddpm small"], "float32")
    wrong = []
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) != steps:
            wrong.append(steps)
    return np.array(wrong)


def main():
    golden = {"version": np.array(f"diffusers {diffusers.__version__}, torch {torch.__version__}")}
    shipped = {case.scheduler: name for name, case in reversed(CASES.items())}
    for name, case in CASES.items():
        with jax.enable_x64(True):
            golden[name], golden[f"{name}/timesteps"] = walk(case, "float64")
        if shipped[case.scheduler] == name:
            golden[f"{name}/float32"], _ = walk(case, "float32")
    with jax.enable_x64(True):
        golden |= {f"thresholded/{largest}": thresholded(largest) for largest in (1.0, 100.0)}
    golden["miscounted"] = miscounted()
    np.savez_compressed(pathlib.Path(__file__).with_name("diffusers.npz"), **golden)


if __name__ == "__main__":
    main()
