"""Each sampler's own arithmetic beside the network of CIFAR-10, a sampling step of each side by side.

    python -m benchmarks.sampler_cost [--batch=4]

The sampler walks with a network that does nothing. Its time for a step stands over that of a step with the network:
as many calls as the sampler makes, and its own time. Medians of rounds in turn. Goal: at most 3%.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from configs import cifar10
from diffusion.grids import trailing
from diffusion.guidance import dynamic_threshold, static_threshold
from diffusion.prediction import PARAMETERISATIONS, denoiser
from diffusion.samplers import SAMPLERS
from diffusion.sampling import prior, sample
from diffusion.schedules import SCHEDULES
from experiment import build

BATCH = flags.DEFINE_integer("batch", 4, "images")
STEPS, ROUNDS, WALKS = 50, 5, 5


def seconds(function, *args) -> float:
    began = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - began


def walk_of(sampler, denoise, schedule, shape):
    """keys -> images, with a network in `denoise` that does nothing."""
    times = trailing(schedule, STEPS)
    return jax.jit(lambda keys: sample(keys, denoise, sampler, times, prior(keys, shape, schedule)))


def main(argv):
    del argv
    config, n = cifar10.get_config(), BATCH.value
    shape, schedule = config.data.shape, SCHEDULES["linear"]()
    experiment = build(config)
    params = experiment.init().params
    network = jax.jit(lambda params, x, t: experiment.denoiser(params, None, {})(x, t))
    inputs = params, jnp.zeros((n, *shape)), jnp.float32(0.5)

    nothing = denoiser(lambda x, noise, cond: 0.1 * x, {}, schedule, PARAMETERISATIONS["eps"](schedule))
    samplers = {name: builder(schedule) for name, builder in SAMPLERS.items()}
    cases = {name: (sampler, nothing) for name, sampler in samplers.items()}
    cases["ddim, static threshold"] = samplers["ddim"], static_threshold(nothing, schedule)
    cases["ddim, dynamic threshold"] = samplers["ddim"], dynamic_threshold(nothing, schedule)
    walks = {name: walk_of(sampler, denoise, schedule, shape) for name, (sampler, denoise) in cases.items()}

    keys = jax.vmap(jax.random.key)(jnp.arange(n))
    for function, args in [(network, inputs), *((walk, (keys,)) for walk in walks.values())]:
        jax.block_until_ready(function(*args))  # compiles
    called, own = [], {name: [] for name in walks}
    for _ in range(ROUNDS):
        called.append(seconds(network, *inputs))
        for name, walk in walks.items():
            own[name] += [seconds(walk, keys) / STEPS for _ in range(WALKS)]

    call, size = np.median(called), sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"Network of {size:,} parameters, batch {n}: {1e3 * call:.1f} ms a call, on {jax.default_backend()}.\n")
    print("| sampler | calls a step | own ms a step | share of the step |\n|---|---|---|---|")
    for name, (sampler, _) in cases.items():
        mine, calls = np.median(own[name]), sampler.calls(trailing(schedule, STEPS)) / STEPS
        print(f"| {name} | {calls:.2f} | {1e3 * mine:.3f} | {mine / (mine + calls * call):.2%} |")


if __name__ == "__main__":
    app.run(main)
