"""Students on the trainer: the teacher is frozen, an average may be the target, what cannot be taught is refused."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import losses, prediction
from diffusion.distillation import pseudo_huber
from diffusion.prediction import target
from diffusion.sampling import normal
from diffusion.schedules import SCHEDULES
from training.distill import METHODS, Setting
from training.objective import Diffusion, Drawn
from training.tasks import TASKS

SHAPE = (2, 2, 1)
TASK = TASKS["class"](SHAPE, 10, drop=0.1, flip=False)


def mathematics(schedule="cosine", kind="v", weighting="truncated_snr"):
    schedule = SCHEDULES[schedule]()
    what, weighting = prediction.PARAMETERISATIONS[kind](schedule), losses.WEIGHTINGS[weighting]()
    loss = losses.weighted(schedule, what, weighting)
    return Diffusion(schedule, what, weighting, loss, loss)


DIFFUSION = mathematics()


def apply(params, x, noise_input, cond, dropout_key=None):
    """A network that knows one image: v of x0 = params where the label is known, and of x0 = 0 where it is not."""
    level = DIFFUSION.schedule.level(noise_input.reshape(-1, 1, 1, 1) / 1000)
    x0 = jnp.where((cond["label"] < 10).reshape(-1, 1, 1, 1), params, 0.0)
    return target(DIFFUSION.parameterisation, x0, (x - level.alpha * x0) / level.sigma, level)


def setting(diffusion=DIFFUSION, averages=(0.9,)):
    return Setting(apply, TASK, diffusion, averages)


def drawn(n=6):
    noise = normal(jax.vmap(jax.random.key)(jnp.arange(n)), SHAPE)
    t = jnp.linspace(0.1, 0.95, n).reshape(-1, 1, 1, 1)
    return Drawn(jnp.full((n, *SHAPE), 0.4), {"label": jnp.arange(n)}, t, noise)


STATE = SimpleNamespace(step=jnp.int32(0), params=jnp.float32(0.3), ema={"0.9": jnp.float32(0.5)})


def asked(method, params, teacher=0.3, state=STATE, diffusion=DIFFUSION):
    """(losses [b], times [b 1 1 1])."""
    told = method.sees(state)
    found, _, t = method.losses_of(jnp.float32(params), {"teacher": jnp.float32(teacher)}, told, drawn(), None)
    return found, t


def test_a_progressive_student_is_taught_by_its_teacher_alone():
    """Of a teacher that knows one image the target is that image: nothing to learn for its equal, a known loss else."""
    method = METHODS["progressive"](setting(), steps=4)
    np.testing.assert_allclose(asked(method, 0.3)[0], 0, atol=1e-8)
    found, t = asked(method, 0.5)
    level = DIFFUSION.schedule.level(t.reshape(-1))
    np.testing.assert_allclose(found, np.maximum(level.alpha**2 / level.sigma**2, 1) * 0.2**2, rtol=1e-4)
    np.testing.assert_array_equal(t, np.ceil(np.asarray(drawn().t) * 4) / 4)


def test_guidance_is_taught_and_the_teacher_gets_no_gradient():
    method = METHODS["progressive"](setting(), steps=4, guidance=3.0)
    np.testing.assert_allclose(asked(method, 0.9)[0], 0, atol=1e-8)  # 0 + 3 (0.3 - 0)
    gradient = jax.grad(lambda teacher: asked(method, 0.5, teacher)[0].sum())(0.3)
    assert gradient == 0


def test_the_targets_of_consistency_distillation_are_the_averages_or_the_students_own():
    """Both ends then say their image but for sigma_min; no gradient goes into the target."""
    own, average = (METHODS["consistency"](setting(), target=decay) for decay in (0.0, 0.9))
    apart = pseudo_huber(jnp.full((1, *SHAPE), 0.2), jnp.zeros((1, *SHAPE))).item()
    assert np.all(asked(own, 0.3)[0] < 0.01 * apart)
    np.testing.assert_allclose(asked(average, 0.3)[0], apart, rtol=0.05)
    np.testing.assert_allclose(asked(average, 0.5, teacher=0.5)[0], 0, atol=0.01 * apart)

    def of_target(params):
        state = SimpleNamespace(**{**vars(STATE), "params": params})
        return asked(own, 0.4, state=state)[0].sum()

    assert jax.grad(of_target)(jnp.float32(0.3)) == 0


def test_consistency_training_needs_no_teacher_and_its_levels_close_in_with_the_step():
    method = METHODS["consistency_training"](setting(), first=4, last=16, every=100)
    assert not method.taught
    ends = {}
    for step in (0, 100, 10_000):
        state = SimpleNamespace(step=jnp.int32(step))
        found, _, t = method.losses_of(jnp.float32(0.3), None, method.sees(state), drawn(), None)
        ends[step] = np.asarray(t).ravel()
        assert np.all(np.isfinite(found))
    upper = np.asarray(drawn().t).ravel()
    assert np.all(ends[0] >= upper - 1e-4) and np.all(ends[10_000] >= upper - 1e-4)
    assert np.mean(ends[0] - upper) > np.mean(ends[100] - upper) > np.mean(ends[10_000] - upper)


def test_both_ends_of_consistency_training_have_one_noise_and_the_loss_is_over_their_distance():
    """Of a network that sees no noise, x0 = x / alpha, the ends differ by (r_t - r_s) eps."""

    def blind(params, x, noise_input, cond, dropout_key=None):
        level = DIFFUSION.schedule.level(noise_input.reshape(-1, 1, 1, 1) / 1000)
        return target(DIFFUSION.parameterisation, x / level.alpha, 0.0, level)

    method = METHODS["consistency_training"](setting()._replace(apply=blind), first=4, last=4, every=1)
    found = method.losses_of(None, None, {"step": jnp.int32(0)}, drawn(), None)[0]
    np.testing.assert_allclose(found, jnp.sqrt(jnp.sum(drawn().eps ** 2, axis=(1, 2, 3))), rtol=0.02)


REFUSED = {
    "steps: got 6; stages halve them to 1, so give a power of 2": ("progressive", {"steps": 6}, {}),
    "an error of this diffusion.prediction stands 1.81e.03 times": ("progressive", {"steps": 4}, {"kind": "eps"}),
    "target: got 0.5, an average that is not kept; give 0.0 or one of": ("consistency", {"target": 0.5}, {}),
    "intervals: got 1; give": ("consistency", {"intervals": 1}, {}),
    "sigma_min: got 1e-06; the schedule": ("consistency", {"sigma_min": 1e-6}, {}),
    "needs a continuous schedule with alpha": ("consistency", {}, {"schedule": "flow"}),
    "a consistency model needs a continuous schedule": ("consistency_training", {}, {"schedule": "linear"}),
    "first: got 20 with last 10": ("consistency_training", {"first": 20, "last": 10}, {}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_taught_is_refused_in_one_line(words):
    name, arguments, diffusion = REFUSED[words]
    with pytest.raises(ValueError, match=words) as refusal:
        METHODS[name](setting(mathematics(**diffusion)), **arguments)
    assert "\n" not in str(refusal.value)
