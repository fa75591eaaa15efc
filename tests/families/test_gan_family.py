"""Laws of the adversarial family: its losses in closed form, whose gradient is whose, and how it stops."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from configs import digits_gan
from diffusion.sampling import normal
from experiment import build
from families.gan import pairing, penalised
from models.gan import NOISE, Gan
from modes.train import train
from plans import settings_of
from training.loop import Diverged
from training.objective import split
from training.step import step_keys


def config(**sections):
    made = digits_gan.get_config("tiny")
    for section, values in sections.items():
        made[section].update(values)
    return made


def test_the_pairing_loss_in_closed_form():
    scores = pairing(jnp.array([2.0, 0.0, -3.0]), jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(scores, [math.log1p(math.exp(-1)), math.log(2), math.log1p(math.exp(4))], rtol=1e-6)


def test_the_penalty_is_the_gradients_square_by_finite_differences():
    weights = np.random.default_rng(0).normal(size=(8, 3))
    x = np.random.default_rng(1).normal(size=(4, 2, 2, 2))

    def critic(weights, x, np=np):
        return np.sin(x.reshape(4, 8) @ weights).sum(axis=1)

    def penalty(weights):
        """In float64, from the critic's values alone."""
        steps = 1e-5 * np.eye(8).reshape(8, 1, 2, 2, 2)
        slopes = [(critic(weights, x + step) - critic(weights, x - step)) / 2e-5 for step in steps]
        return (np.array(slopes) ** 2).sum(axis=0)

    def ours(weights):
        return penalised(lambda x: critic(weights, x, jnp), jnp.float32(x))

    scores, found = ours(jnp.float32(weights))
    np.testing.assert_allclose(scores, critic(weights, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, penalty(weights), rtol=1e-4)
    # and what it teaches: its derivative along a direction in the weights
    direction = np.random.default_rng(2).normal(size=weights.shape)
    slope = (penalty(weights + 1e-3 * direction) - penalty(weights - 1e-3 * direction)).sum() / 2e-3
    _, taught = jax.jvp(lambda w: ours(w)[1].sum(), (jnp.float32(weights),), (jnp.float32(direction),))
    np.testing.assert_allclose(taught, slope, rtol=1e-3)


@pytest.fixture(scope="module")
def built():
    """With parameters none of which is zero."""
    made = config(ema={"decays": (0.5,)})
    experiment = build(made)
    state = experiment.init()
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    params = jax.tree.unflatten(tree, [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])
    return made, experiment, state.replace(params=params), next(experiment.batches(0))


def copied(state):
    """The step takes its state's memory."""
    return jax.tree.map(jnp.copy, state)


def test_each_network_is_moved_by_its_own_loss_alone(built):
    """Adam's first step is lr * sign(gradient), but where the gradient is next to nothing."""
    made, experiment, state, batch = built
    net = Gan((8, 8, 1), 8, (1, 2), 1, num_labels=10)
    keys, _ = step_keys(state.extra["seed"], state.step, 8)
    task_keys, noise_keys = split(keys, 2)
    x, cond = experiment.task.prepare(None, task_keys, batch, True)
    z = normal(noise_keys, (NOISE,))

    def score(params, x):
        return net.apply({"params": params}, x, cond, method=net.criticise)

    def generate(params):
        return net.apply({"params": params}, z, cond, method=net.generate)

    def generator_loss(generator):
        return jnp.log1p(
            jnp.exp(score(state.params, x) - score(state.params, generate({"generator": generator})))
        ).mean()

    def discriminator_loss(discriminator):
        params, fake = {"discriminator": discriminator}, generate(state.params)
        slopes = [jax.grad(lambda x: score(params, x).sum())(image) for image in (x, fake)]
        penalty = sum((slope**2).sum() for slope in slopes) / len(x)
        return jnp.log1p(jnp.exp(score(params, fake) - score(params, x))).mean() + made.gan.gamma / 2 * penalty

    gradients = {
        "generator": jax.jit(jax.grad(generator_loss))(state.params["generator"]),
        "discriminator": jax.jit(jax.grad(discriminator_loss))(state.params["discriminator"]),
    }
    after, sums = experiment.train_step(copied(state), None, batch)
    lr, parts = made.optim.lr, ("generator", "discriminator")
    for part in parts:
        moves = jax.tree.map(lambda new, old: new - old, after.params[part], state.params[part])
        for move, gradient in zip(jax.tree.leaves(moves), jax.tree.leaves(gradients[part]), strict=True):
            clear = np.abs(gradient) > 1e-4
            np.testing.assert_allclose(np.asarray(move)[clear], -lr * np.sign(gradient)[clear], rtol=1e-2)
    assert float(sums["generator_loss"][0]) / 8 == pytest.approx(
        float(generator_loss(state.params["generator"])), rel=1e-4
    )


def test_the_average_is_of_the_generator_and_is_what_samples(built):
    made, experiment, state, batch = built
    after, _ = experiment.train_step(copied(state), None, batch)
    assert set(after.ema["0.5"]) == {"generator"} and set(after.params) == {"generator", "discriminator"}
    labels, settings = np.arange(8, dtype=np.int32), settings_of(made)
    images = drawing.draw(experiment, made, after.ema["0.5"], np.arange(8), {"label": labels}, settings)
    order = np.array([5, 1, 7, 0, 2, 3, 4, 6])
    again = drawing.draw(experiment, made, after.ema["0.5"], order, {"label": labels[order]}, settings)
    np.testing.assert_array_equal(again, images[order])
    assert np.any(images != images[0])


def test_a_non_finite_gradient_of_one_network_stops_both(built):
    _, experiment, state, batch = built
    broken = copied(state)
    broken.params["discriminator"]["out"]["kernel"] = jnp.full_like(
        broken.params["discriminator"]["out"]["kernel"], jnp.nan
    )
    before = jax.tree.map(np.asarray, (broken.params, broken.opt_state, broken.ema))
    after, _ = experiment.train_step(broken, None, batch)
    jax.tree.map(np.testing.assert_array_equal, (after.params, after.opt_state, after.ema), before)
    assert int(after.extra["skipped"]) == 1


def test_a_diverging_training_stops_and_says_so(tmp_path):
    """By the loop's own rule, whatever the pictures on the way show."""
    made = config(optim={"lr": 1e30, "max_skipped": 3}, train={"steps": 20}, checkpoint={"every": 20})
    made.log.samples_every = 2
    with pytest.raises(Diverged, match="3 non-finite gradients in a row by step .*; lower optim.lr"):
        train(made, types.SimpleNamespace(workdir=str(tmp_path), allow_config_change=False))


BAD = {
    "gan.gamma=-1.0 must be 0 or more": {"gan": {"gamma": -1.0}},
    "multipliers halve 2 times": {"model": {"multipliers": (1, 1, 1)}, "data": {"shape": (6, 6, 1)}},
    "optim.clip_each clips both networks as one: use optim.clip": {"optim": {"clip_each": True, "clip": 1.0}},
    "model.name: gan: multipliers is empty": {"model": {"multipliers": ()}},
    r"multipliers \(1, 0.01\) of 8 channels leave a level without any": {"model": {"multipliers": (1, 0.01)}},
    "channels is -8: give at least 1": {"model": {"channels": -8}},
    "dtype is 'foo': choose from": {"model": {"dtype": "foo"}},
    "sampling.sampler=tokens is of family=": {"sampling": {"sampler": "tokens"}},
    "model.dropout=0.5 is not taken by model.name=gan": {"model": {"dropout": 0.5}},
}


@pytest.mark.parametrize("words", BAD)
def test_what_cannot_be_is_refused_in_one_line(words):
    with pytest.raises(ValueError, match=words) as error:
        build(config(**BAD[words]))
    assert "\n" not in str(error.value)
