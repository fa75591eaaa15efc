"""The composition root: names become objects, and what cannot be is refused in one line before any compilation."""

import jax
import numpy as np
import pytest

import drawing
from calls import parse_call
from checks import check_batches
from configs import digits
from experiment import build
from plans import Settings, settings_of


def config(**sections):
    made = digits.get_config("tiny")
    for section, values in sections.items():
        made[section].update(values)
    return made


def plain(**sections):
    """On a network of one level without attention, where the law is of the diffusion: it compiles in half the time."""
    return config(model={"multipliers": (1,), "attention": ()}, **sections)


@pytest.fixture(scope="module")
def built():
    experiment = build(config())
    return experiment, experiment.init()


SETTINGS = Settings("ddim(eta=0.0)", 2, "trailing", 2.0, (), 0.0, "static")


NOUGHTS = {"label": np.zeros(8, np.int32)}


def draw(built, seeds, labels, settings=SETTINGS, batch_size=8):
    experiment, state = built
    made = config(sampling={"batch_size": batch_size})
    return drawing.draw(experiment, made, state.params, seeds, {"label": labels}, settings)


BAD = {
    "diffusion.schedule='linaer' is unknown; choose from": {"diffusion": {"schedule": "linaer"}},
    "diffusion.schedule: linear: .*'step'.*it takes steps, first, last": {"diffusion": {"schedule": "linear(step=10)"}},
    "diffusion.schedule='linear.10.' is not of the form": {"diffusion": {"schedule": "linear(10)"}},
    "diffusion.prediction='epsilon' is unknown; choose from edm, eps": {"diffusion": {"prediction": "epsilon"}},
    "diffusion.weighting='min-snr' is": {"diffusion": {"weighting": "min-snr"}},
    "model.name='unnet' is unknown; choose from dit, edm2_unet, efficient_unet": {"model": {"name": "unnet"}},
    "num_heads is 7, which does not divide": {"model": {"num_heads": 7}},
    "multipliers halve 2 times": {"model": {"multipliers": (1, 2, 2)}, "data": {"shape": (6, 6, 1)}},
    "task.name='clas' is unknown; choose from class, text, unconditional": {"task": {"name": "clas"}},
    "task.name=text needs captions: set data.captions": {"task": {"name": "text"}},
    "text.encoder='byte' is unknown; choose from bytes, hf, t5": {
        "task": {"name": "text"},
        "data": {"captions": True},
        "text": {"encoder": "byte"},
    },
    "task.crop=4 is of super-resolution, and task.low_size is 0": {"task": {"crop": 4}},
    "task.low_size=3 must divide the height 8": {"task": {"low_size": 3}},
    "sampling.aug_level=1.5 must be in": {"task": {"low_size": 4}, "sampling": {"aug_level": 1.5}},
    "sampling.aug_level=0.2 is of super-resolution, and task.low_size is 0": {"sampling": {"aug_level": 0.2}},
    r"model.cross_attention=\(4,\) is not taken by model.name=unet, which takes": {"model": {"cross_attention": (4,)}},
    "task.augment=1.5 is a probability": {"task": {"augment": 1.5}},
    r"model.name=unet takes .*, but the task also tells \['augment'\]": {"task": {"augment": 0.1}},
    "sampling.guidance_channels=-1 must be 0": {"sampling": {"guidance_channels": -1}},
    "sampling.guidance_channels=2 must be 0, for all, or 1 to the 1": {"sampling": {"guidance_channels": 2}},
    "ema.ramp=0.05 is a share, and stands instead of": {"ema": {"ramp": 0.05}},
    r"ema.decays=\(\) must be one or more": {"ema": {"decays": ()}},
    "optim.decay_steps=1400 and optim.root_from=5 are two": {"optim": {"decay_steps": 1400, "root_from": 5}},
    "diffusion.loss: hybrid: .*'rescaled'": {"diffusion": {"loss": "hybrid(rescaled=True)"}},
    "task.drop=1.5 is a share": {"task": {"drop": 1.5}},
    "optim.name='sgd' is unknown; choose from adafactor, adam, adamw": {"optim": {"name": "sgd"}},
    "weight_decay=0.1 has no place in adam": {"optim": {"weight_decay": 0.1}},
    "optim.accumulate=0 must be 1 or more": {"optim": {"accumulate": 0}},
    "log.every=0 must be 1 or more": {"log": {"every": 0}},
    r"ema.decays=\(1.0,\) must be": {"ema": {"decays": (1.0,)}},
    r"ema.sigma_rels=\(0.1, 0.3\) must lie between 0 and 0.2887": {"ema": {"sigma_rels": (0.1, 0.3)}},
    "ema.snapshot_every=5 has nothing to save": {"ema": {"snapshot_every": 5}},
    "ema.snapshot_every=-1 must be 0 or more": {"ema": {"snapshot_every": -1}},
    "sampling.sampler='dimm' is unknown": {"sampling": {"sampler": "dimm"}},
    "needs a learned variance: diffusion.loss=hybrid": {"sampling": {"sampler": "ancestral(variance='learned')"}},
    "diffusion.loss='hybird' is unknown": {"diffusion": {"loss": "hybird"}},
    "loss: vdm needs a continuous schedule": {"diffusion": {"loss": "vdm"}},
    "diffusion.schedule=monotone is learned, which takes diffusion.loss=vdm": {"diffusion": {"schedule": "monotone"}},
    "shifted: its base must have alpha": {"diffusion": {"schedule": "shifted(base=sub_vp(), resolution=128)"}},
    "diffusion.schedule='monotone' is unknown": {"diffusion": {"schedule": "shifted(base=monotone())"}},
    "diffusion.prediction: eps: .*singular at t = 1": {"diffusion": {"schedule": "flow"}},
    "diffusion.times=importance needs a discrete": {
        "diffusion": {"schedule": "cosine", "prediction": "v", "times": "importance"}
    },
    "sampling.sampler: unipc: order: got 2.0": {"sampling": {"sampler": "unipc(order=2.0)"}},
    "sampling.grid: karras: rho: got 0.0; give a positive": {"sampling": {"grid": "karras(rho=0.0)"}},
    "diffusion.schedule: sigmoid: math range error": {"diffusion": {"schedule": "sigmoid(tau=0.001)"}},
    "diffusion.schedule: monotone: hidden: got -1": {"diffusion": {"schedule": "monotone(hidden=-1)", "loss": "vdm"}},
    "diffusion.times: importance: history: got 0": {"diffusion": {"times": "importance(history=0)"}},
    "diffusion.times: importance: levels follows from": {"diffusion": {"times": "importance(levels=5)"}},
    r"sampling.guidance_interval=\(2.0, 1.0\) must be": {"sampling": {"guidance_interval": (2.0, 1.0)}},
    r"sampling.guidance_rescale=1.5 must be a share": {"sampling": {"guidance_rescale": 1.5}},
    "sampling.grid: given: grid: the times given end at t = 0.5": {
        "sampling": {"grid": "given(times=(1.0, 0.75, 0.5))"}
    },
    "needs a network trained with task.drop > 0": {"task": {"drop": 0.0}},
    "diffusion.schedule: linear: ": {"diffusion": {"schedule": "linear(steps='many')"}},
    r"data.shape=\(8,\) must be height": {"data": {"shape": (8,)}},
    "data.name='digit' is unknown; choose from": {"data": {"name": "digit"}},
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_built_is_refused_in_one_line(message):
    with pytest.raises(ValueError, match=message) as refused:
        build(config(**BAD[message]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("batch_size, accumulate, parts", [(12, 1, 8), (24, 2, 16)])
def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(batch_size, accumulate, parts):
    made = config(train={"batch_size": batch_size}, optim={"accumulate": accumulate})
    with pytest.raises(ValueError, match=f"train.batch_size={batch_size} does not divide over {parts} parts"):
        check_batches(made, build(made).mesh)


BAD_SETTINGS = {
    "sampling.sampler='ddimm' is unknown; choose from": {"sampler": "ddimm"},
    "sampling.sampler: ddim: .*'etta'": {"sampler": "ddim(etta=0.0)"},
    "eta: got 2.0": {"sampler": "ddim(eta=2.0)"},
    "sampling.grid='leadin' is unknown": {"grid": "leadin"},
    "steps: got 2000": {"steps": 2000},
    "sampling.threshold='clip' is unknown; choose from dynamic, static": {"threshold": "clip"},
    "guidance nan must be a finite number": {"guidance": float("nan")},
}


@pytest.mark.parametrize("message", BAD_SETTINGS)
def test_what_cannot_be_sampled_is_refused_in_one_line(built, message):
    with pytest.raises(ValueError, match=message) as refused:
        draw(built, np.arange(8), np.zeros(8, np.int32), SETTINGS._replace(**BAD_SETTINGS[message]))
    assert "\n" not in str(refused.value)


def test_guidance_needs_a_network_that_was_trained_without_its_condition(built):
    unguided = config(task={"drop": 0.0}, sampling={"guidance": None})
    experiment = build(unguided)
    with pytest.raises(ValueError, match="needs a network trained with task.drop > 0"):
        drawing.draw(experiment, unguided, None, np.arange(8), NOUGHTS, SETTINGS)


@pytest.mark.parametrize("text", ["ddim(eta=0.5)", "ddim( eta = 0.5 )"])
def test_a_call_is_a_name_and_literal_arguments(text):
    call = parse_call(text, "k")
    assert call.name == "ddim" and call.arguments == (("eta", 0.5),)


@pytest.mark.parametrize("text", ["", "ddim(0.5)", "ddim(eta=", "a.b()", "ddim(eta=open('x'))", "1", "f()()", "*"])
def test_nothing_else_is_evaluated(text):
    with pytest.raises(ValueError, match="k=.* is not of the form"):
        parse_call(text, "k")


def test_seed_i_is_image_i_whatever_the_batch(built):
    labels = np.arange(24) % 10
    whole = draw(built, np.arange(24), labels, batch_size=24)
    for part in (slice(3, 7), slice(16, 24), slice(23, 24)):
        alone = draw(built, np.arange(24)[part], labels[part], batch_size=8)
        assert np.max(np.abs(alone.astype(int) - whole[part])) <= 1
        assert np.mean(alone != whole[part]) < 0.02


def test_one_program_serves_a_sweep_of_guidance_eta_and_seed(built):
    jax.clear_caches()
    draw(built, np.arange(8), np.zeros(8, np.int32))
    with jax.log_compiles(True):
        import logging

        records = []
        handler = logging.Handler()
        handler.emit = lambda record: records.append(record.getMessage())
        logger = logging.getLogger("jax._src.interpreters.pxla")
        logger.addHandler(handler)
        for guidance, eta, seed in ((1.0, 0.0, 5), (3.5, 0.7, 9), (0.0, 1.0, 11)):
            settings = SETTINGS._replace(guidance=guidance, sampler=f"ddim(eta={eta})")
            draw(built, seed + np.arange(8), np.ones(8, np.int32), settings)
        logger.removeHandler(handler)
    assert [line for line in records if "Compiling jit(program)" in line] == []


RECIPES = {
    "edm": {
        "diffusion": {
            "schedule": "edm", "prediction": "edm", "weighting": "edm", "times": "log_normal(mean=-1.2, std=1.2)",
            "uncertainty": True,
        },
        "sampling": {"sampler": "heun(churn=1.0)", "grid": "karras(rho=7.0)", "guidance_interval": (0.1, 10.0)},
    },
    "flow": {
        "diffusion": {
            "schedule": "flow", "prediction": "flow", "weighting": "sigmoid(bias=2.0)", "times": "logit_normal",
            "stratified": True,
        },
        "sampling": {"sampler": "euler", "guidance": 2.0, "guidance_rescale": 0.7},
    },
    "vdm": {
        "diffusion": {"schedule": "monotone(hidden=8)", "loss": "vdm", "stratified": True},
        "sampling": {"sampler": "dpmpp_2m", "grid": "logsnr"},
    },
    "iddpm": {
        "diffusion": {"schedule": "cosine_discrete(steps=20)", "loss": "variational", "times": "importance(history=1)"},
        "sampling": {"sampler": "ancestral(variance='learned')"},
    },
    "simple diffusion": {
        "diffusion": {"schedule": "interpolated(base=cosine(), resolution=256)", "prediction": "v"},
        "sampling": {"sampler": "unipc(order=3)", "grid": "quadratic"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_kind_of_diffusion_trains_and_samples(name):
    experiment = build(plain(**RECIPES[name]))
    state, batches = experiment.init(), experiment.batches(0)
    before = jax.device_get(state.params)
    for _ in range(2):
        state, sums = experiment.train_step(state, None, next(batches))
    assert np.isfinite(sums["loss"][0]) and int(state.extra["skipped"]) == 0
    for part in ("schedule", "uncertainty"):
        assert part not in before or any(
            np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before[part], jax.device_get(state.params[part]))))
        )
    if "importance" in plain(**RECIPES[name]).diffusion.times:
        assert int(state.extra["memory"]["seen"].sum()) == 16
    made = plain(**RECIPES[name])
    images = drawing.draw(experiment, made, state.params, np.arange(8), NOUGHTS, settings_of(made))
    assert images.shape == (8, 8, 8, 1) and len(np.unique(images)) > 10


@pytest.mark.parametrize("schedule", ["flow", "linear(steps=4, first=0.0001, last=0.002, zero_terminal=True)"])
def test_pure_noise_is_no_infinity_to_a_preconditioned_network_or_to_a_learned_uncertainty(schedule):
    made = plain(diffusion={"schedule": schedule, "prediction": "edm", "uncertainty": True})
    experiment = build(made)
    state, sums = experiment.train_step(experiment.init(), None, next(experiment.batches(0)))
    assert int(state.extra["skipped"]) == 0 and np.isfinite(sums["loss"][0])
    drawing.draw(experiment, made, state.params, np.arange(8), NOUGHTS, settings_of(made))  # refuses NaN


def test_network_calls_are_written_for_every_sampler():
    calls = {name: build(plain(**RECIPES[name])).calls(settings_of(plain(**RECIPES[name]))) for name in RECIPES}
    assert calls == {"edm": 3, "flow": 2, "vdm": 2, "iddpm": 2, "simple diffusion": 2}


def test_validation_loss_is_deterministic_and_independent_of_the_batch_size():
    values = []
    for size in (8, 16, 8):
        made = plain(train={"batch_size": size}, evaluation={"validation_images": 37, "validation_draws": 3})
        experiment = build(made)
        values.append(experiment.validation_loss(experiment.init().params, None)[0])
    assert values[0] == values[2] and np.isclose(values[0], values[1], rtol=1e-5)


def test_an_untrained_network_has_loss_one_and_the_trivial_predictor_less(built):
    experiment, state = built
    batch = next(experiment.batches(0))
    _, sums = experiment.train_step(jax.tree.map(lambda x: x.copy(), state), None, batch)
    means = {name: np.asarray(total) / np.maximum(np.asarray(count), 1) for name, (total, count) in sums.items()}
    assert abs(means["loss"] - 1) < 0.1 and means["trivial_loss"] < means["loss"]
    totals, counts = sums["loss_at_logsnr"]
    assert np.isclose(totals.sum(), sums["loss"][0], rtol=1e-5) and counts.sum() == 8


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_labels_have_the_proportions_of_the_training_set_over_any_run_of_seeds(n):
    counts = np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    for first in (0, 12345):
        drawn = np.bincount(drawing.spread_labels(counts, first + np.arange(n)), minlength=10)
        assert np.all(np.abs(drawn - n * counts / counts.sum()) <= 3)
    assert drawing.spread_labels(counts, np.arange(n))[-1] == drawing.spread_labels(counts, np.array([n - 1]))[0]
