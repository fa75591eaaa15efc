"""A student and its teacher's workdir: it starts as its teacher, learns from it, samples without it, fits no other."""

import jax
import numpy as np
import pytest

import drawing
import workdir as records
from configs import digits, digits_distill
from experiment import build
from modes.train import first_state, first_weights
from plans import settings_of
from students import read_teacher
from training.checkpoint import Checkpoints

SMALL = dict(multipliers=(1,), attention=())


def get_config(arg):
    config = digits_distill.get_config(f"tiny,{arg}")
    config.model.update(SMALL)
    return config


def save(config, workdir):
    """A run of this config that stopped after no step; its average is not what it would train on."""
    experiment = build(config)
    state = experiment.init()
    average = {name: jax.tree.map(lambda x: x + 0.01, params) for name, params in state.ema.items()}
    records.write_config(workdir, config)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, state.replace(ema=average))
    checkpoints.close()
    return state


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("teacher")
    return workdir, save(get_config("teacher"), workdir)


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, jax.device_get(a), jax.device_get(b))))


@pytest.mark.parametrize("arg", ["steps=2,guided", "consistency", "untaught"])
def test_every_kind_of_student_starts_trains_and_samples(arg, teacher, tmp_path):
    """In its tiny variant: from its teacher's average, which no step changes; and without its teacher it samples."""
    workdir, trained = teacher
    config = get_config(f"{arg},of={workdir}")
    experiment = build(config)
    state, step = first_state(config, experiment, Checkpoints(tmp_path), first_weights(config, experiment))
    frozen, start = experiment.frozen(training=True), jax.device_get(state.params)
    if config.distill.teacher:
        average = jax.tree.map(lambda x: x + 0.01, trained.params)
        assert step == 0 and equal(start, average) and equal(frozen["teacher"], average)
        assert all(equal(of_run, average) for of_run in state.ema.values())
    batches = experiment.batches(0)
    for _ in range(2):  # the first has a learning rate of 0
        state, sums = experiment.train_step(state, frozen, next(batches))
    assert np.isfinite(sums["loss"][0]) and not equal(state.params, start)
    assert not config.distill.teacher or equal(frozen["teacher"], start)

    config.distill.teacher = str(tmp_path / "gone") if config.distill.teacher else ""
    alone, seeds = build(config), np.arange(8)
    condition = drawing.training_condition(alone, config, seeds)
    for steps in (1, 2):
        settings = settings_of(config)._replace(steps=steps)
        images = drawing.draw(alone, config, state.params, seeds, condition, settings)
        assert images.dtype == np.uint8 and images.std() > 0 and alone.calls(settings) == steps


def test_a_teacher_lies_over_the_mesh_as_its_student_does(teacher):
    workdir, trained = teacher
    config = get_config(f"steps=2,of={workdir}")
    config.mesh.update(data=1, fsdp=8)
    experiment = build(config)
    frozen = experiment.frozen(training=True)["teacher"]
    layouts = [
        jax.tree.map(lambda x: x.sharding, tree)
        for tree in (frozen, experiment.abstract.params, experiment.abstract_frozen["teacher"])
    ]
    assert layouts[0] == layouts[1] == layouts[2]
    assert any("fsdp" in sharding.spec for sharding in jax.tree.leaves(layouts[0]))
    assert equal(frozen, jax.tree.map(lambda x: x + 0.01, trained.params))


def student(arg, **sections):
    config = get_config(arg)
    for section, values in sections.items():
        config[section].update(values)
    return config


def test_a_teacher_of_another_kind_is_refused_in_one_line(teacher, tmp_path):
    workdir, _ = teacher
    read_teacher(student(f"of={workdir}"))
    read_teacher(student(f"of={workdir}:0"))
    read_teacher(student(f"of={workdir}", task={"drop": 0.3}))
    for words, config in {
        "task.drop: 0.1 there, 0.0 here": student(f"of={workdir}", task={"drop": 0.0}),
        "task.augment: 0.0 there, 0.1 here": student(f"of={workdir}", task={"augment": 0.1}),
        "diffusion.loss: weighted there, hybrid here": student(f"of={workdir}", diffusion={"loss": "hybrid"}),
        "diffusion.prediction: v there, x0 here": student(f"of={workdir}", diffusion={"prediction": "x0"}),
        r"data.shape: \[8, 8, 1\] there, \[8, 8, 3\] here": student(f"of={workdir}", data={"shape": (8, 8, 3)}),
        "model.blocks: 1 there, 2 here; model.channels: 32 there, 16 here.*make them the same": student(
            f"of={workdir}", model={"channels": 16, "blocks": 2}
        ),
        "no run is there .*config.json is missing": student(f"of={tmp_path}/none"),
    }.items():
        with pytest.raises(ValueError, match=words) as refusal:
            read_teacher(config)
        assert "\n" not in str(refusal.value)


def test_a_teacher_of_other_arrays_than_its_config_makes_is_refused_before_the_compile(tmp_path):
    workdir = tmp_path / "teacher"
    undropped = get_config("teacher")
    undropped.task.drop, undropped.sampling.guidance = 0.0, None
    save(undropped, workdir)
    records.write_config(workdir, get_config("teacher"))
    config = get_config(f"of={workdir}")
    with pytest.raises(ValueError, match="distill.teacher=.* has no .*label.* of its student's shape"):
        first_weights(config, build(config))


@pytest.mark.parametrize(
    "key, arg, value",
    [
        ("sampler", "steps=4", "ddim(eta=0.5)"),
        ("sampler", "steps=4", "heun"),
        ("grid", "steps=4", "karras"),
        ("steps", "steps=4", 8),
        ("guidance", "guided", 1.2),
        ("sampler", "consistency", "consistency(sigma_min=0.01)"),
        ("sampler", "untaught", "ddim"),
        ("guidance", "consistency", 1.2),
    ],
)
def test_a_student_samples_as_it_is_taught_to(key, arg, value):
    with pytest.raises(ValueError, match=f"distill.method=.* needs sampling.{key}=.*, and it is .* here") as refusal:
        build(student(arg, sampling={key: value}))
    assert "\n" not in str(refusal.value)


def test_stages_follow_each_other(tmp_path):
    records.write_config(tmp_path, get_config("steps=4,guided"))
    read_teacher(student(f"of={tmp_path},steps=2"))
    for arg, words in {
        "steps=1": r"is a student itself, of progressive\(steps=4, guidance=1.2\): it can teach .*steps=2\) alone",
        "consistency": r"it can teach progressive\(steps=2\) alone",
        "steps=2,guided": "has its guidance in it: leave it out",
    }.items():
        with pytest.raises(ValueError, match=words):
            read_teacher(student(f"{arg},of={tmp_path}"))
    with pytest.raises(ValueError, match="samples without guidance: set sampling.guidance=None .*, not 1.2"):
        read_teacher(student(f"steps=2,of={tmp_path}", sampling={"guidance": 1.2}))
    records.write_config(tmp_path, get_config("untaught"))
    with pytest.raises(ValueError, match="it can teach nothing"):
        read_teacher(student(f"of={tmp_path}"))


def test_what_cannot_be_a_student_is_refused_when_it_is_built(teacher):
    workdir, _ = teacher
    for words, config in {
        "distill.method='progresive' is unknown; choose from": {"method": "progresive(steps=2)"},
        "distill.method: progressive: .*it takes steps, guidance": {"method": "progressive(step=2)"},
        "needs a teacher: set distill.teacher": {"teacher": ""},
        "has no teacher: leave out distill.teacher": {"method": "consistency_training"},
        "teaches nothing: set distill.method": {"method": ""},
    }.items():
        with pytest.raises(ValueError, match=words):
            build(student(f"of={workdir}", distill=config))
    with pytest.raises(ValueError, match="takes diffusion.loss=weighted, no uncertainty"):
        build(student(f"of={workdir}", diffusion={"uncertainty": True}))
    with pytest.raises(ValueError, match="needs a teacher trained with task.drop > 0"):
        build(student(f"of={workdir},guided", task={"drop": 0.0}))
    assert digits.get_config().distill.method == ""
