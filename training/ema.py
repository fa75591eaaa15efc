"""Averages of the parameters, updated once per optimiser step in float32: exponential ones, and powers of time.

A rule says how far an average moves towards the parameters: rule(n) = 1 - decay, n updates having come before.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Rule = Callable[[jax.Array], jax.Array | float]


def name(decay: float) -> str:
    """The name under which an average is stored and asked for: its decay as Python writes it, '0.9999'."""
    return repr(float(decay))


def power_name(sigma_rel: float) -> str:
    """'power_0.05': the same for an average by a power of time."""
    return f"power_{float(sigma_rel)!r}"


def first_name(section) -> str:
    """The name of the average that is sampled with unless another is asked for; section has decays and sigma_rels."""
    return name(section.decays[0]) if section.decays else power_name(section.sigma_rels[0])


def rules(
    decays: tuple[float, ...], warmup: bool, sigma_rels: tuple[float, ...] = (), ramp: float = 0.0
) -> dict[str, Rule]:
    """Every average's rule by its name. ramp > 0 bounds the exponential ones instead of warmup (`ramped`)."""
    exponentials = {
        name(decay): (lambda n, d=decay: 1 - ramped(d, ramp, n)) if ramp else exponential(decay, warmup)
        for decay in decays
    }
    return exponentials | {power_name(sigma_rel): power(sigma_rel) for sigma_rel in sigma_rels}


def exponential(decay: float, warmup: bool) -> Rule:
    return lambda updates: 1 - (warmed_up(decay, updates) if warmup else decay)


def warmed_up(decay: float, updates: jax.Array) -> jax.Array:
    """min(decay, (1 + n) / (10 + n)) after n earlier updates: a young average follows the parameters closely."""
    n = updates.astype(jnp.float32)
    return jnp.minimum(decay, (1 + n) / (10 + n))


def ramped(decay: float, share: float, updates: jax.Array) -> jax.Array:
    """min(decay, that of a half-life of `share` of the n updates before): EDM's rule, with .05; all new at n = 0."""
    return jnp.minimum(decay, 0.5 ** (1 / (share * jnp.maximum(updates.astype(jnp.float32), 1e-3))))


def power(sigma_rel: float) -> Rule:
    """beta_n = (1 - 1/n)^(gamma + 1) in the n-th update, so that the first takes the parameters whole.

    The average after n updates then weighs the k-th parameters by (k/n)^(gamma + 1) - ((k - 1)/n)^(gamma + 1).
    Karras et al. 2024 (EDM2, arXiv 2312.02696), Eq. 127.
    """
    exponent = gamma(sigma_rel) + 1
    # not from a float32 beta, which leaves 1 - beta wrong by 1% after a million updates, 10% after five
    return lambda updates: -jnp.expm1(exponent * jnp.log1p(-1 / (updates.astype(jnp.float32) + 1)))


WIDEST = 12**-0.5  # the standard deviation of the uniform average, gamma = 0, in units of its length


def gamma(sigma_rel: float) -> float:
    """The power of the profile t^gamma whose standard deviation is sigma_rel of its length (EDM2, Eq. 126).

    Raises ValueError outside (0, 12^-1/2).
    """
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(f"sigma_rel={sigma_rel} must lie between 0 and {WIDEST:.4f}, the width of the uniform average")
    return float(np.roots([1, 7, 16 - sigma_rel**-2, 12 - sigma_rel**-2]).real.max())


def part(params, names: tuple[str, ...]):
    """What is averaged: the parameters of these names, or all where there are none."""
    return {name: params[name] for name in names} if names else params


def update(average, params, weight):
    """average + weight * (params - average), leaf by leaf."""
    return jax.tree.map(lambda a, p: a + weight * (p - a), average, params)


def update_all(averages: dict, params, rules: dict[str, Rule], updates: jax.Array) -> dict:
    """Every average one step on. updates: [] int32, how many came before."""
    return {name: update(averages[name], params, rule(updates)) for name, rule in rules.items()}
