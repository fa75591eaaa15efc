"""Evaluation as a job: kills, sweeps, watching and the best, on a sampler and a feature network that cost nothing."""

import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from diffusion.oracles import gaussian
from diffusion.schedules import SCHEDULES
from evaluation.features import extractor
from input_pipeline.source import Source
from models.inception import Outputs
from models.text import byte_encoder
from modes import candidate as candidates
from modes.candidate import Candidate
from modes.evaluate import evaluate_weights, watch
from modes.evaluators import EVALUATORS, check_evaluators, names
from modes.judge import Clip, Judge, readable
from modes.weights import Weights
from plans import check_guidance, settings_of
from training import posthoc
from training.sharding import data_mesh
from training.tasks import normalise

SHAPE, N = (4, 4, 3), 130


class Killed(Exception):
    pass


@pytest.fixture
def config():
    config = base.get_config()
    config.data.update(shape=SHAPE)
    config.sampling.batch_size = 16
    config.evaluation.update(evaluators=("fid",), samples=N)
    return config


def real():
    pixels = np.random.default_rng(5).integers(0, 256, (200, *SHAPE), np.uint8)
    return Source(200, SHAPE, None, None, lambda index: {"image": pixels[index], "valid": np.ones(len(index), bool)})


def features(params, images):
    x = images.astype(jnp.float32).reshape(len(images), -1) / 255
    return Outputs(x @ params, x[:, :7] * 3, x[:, 7:12])


@pytest.fixture
def judge(config, tmp_path, monkeypatch):
    """A Judge whose samples follow from seed, guidance and weights; `drawn` lists every seed that was drawn."""
    drawn, mesh = [], data_mesh(jax.devices()[:1])

    def sample(params, frozen, seeds, cond, settings):
        drawn.extend(np.asarray(seeds).tolist())
        keys = jax.vmap(jax.random.key)(seeds)
        noise = jax.vmap(lambda key: jax.random.uniform(key, SHAPE, minval=-1))(keys)
        return noise * params["scale"] * (settings.guidance or 1) ** 0.5

    def calls(settings):
        check_guidance(config, settings)
        return settings.steps

    scale = {"scale": jax.ShapeDtypeStruct((), jnp.float32)}
    experiment = types.SimpleNamespace(
        mesh=mesh,
        task=types.SimpleNamespace(labels=0),
        text=None,
        sample=sample,
        frozen=lambda: None,
        source=lambda split: real(),
        calls=calls,
        abstract=types.SimpleNamespace(params=scale, ema={"0.9999": scale}),
    )
    monkeypatch.setattr(candidates, "PART", 16)
    judge = Judge(config, experiment, tmp_path)
    network = np.random.default_rng(1).normal(size=(48, 6)).astype(np.float32)
    judge.inception = extractor(features, network, mesh, batch_size=32)
    judge.drawn = drawn
    return judge


def weights(scale=1.0, step=7):
    return Weights({"scale": jnp.float32(scale)}, step, "0.9999", f"digest of {scale}")


FLAGS = types.SimpleNamespace(seed=0, ema=None, checkpoint=None)


def run(judge, out, scale=1.0, step=7, check=lambda: None):
    evaluate_weights(judge, weights(scale, step), settings_of(judge.config), FLAGS, out, check)
    return json.loads((out / "evaluation.json").read_text())


def numbers(report):
    return {name: result["value"] for name, result in report["results"].items() if name != "sampling_seconds"}


@pytest.mark.filterwarnings("ignore:Frechet distance over")
def test_an_evaluation_killed_again_and_again_gives_the_same_number_to_the_last_digit(judge, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.parts.SAVE_SECONDS", 0)
    monkeypatch.setattr(candidates, "CHUNK", 20)
    whole = run(judge, tmp_path / "whole")
    assert sorted(set(judge.drawn)) == list(range(N)) and {"fid", "kid", "recall"} <= numbers(whole).keys()

    judge.drawn.clear()
    random, kills = np.random.default_rng(0), 0

    def check():
        if random.random() < 0.3:
            raise Killed

    for _ in range(200):
        try:
            killed = run(judge, tmp_path / "killed", check=check)
            break
        except Killed:
            kills += 1
    assert kills > 3 and numbers(killed) == numbers(whole)
    assert sorted(judge.drawn) == list(range(N))  # a part is a batch here: none was drawn twice
    assert not list((tmp_path / "killed" / "evaluation").glob("samples_*"))  # gone once the numbers are written


@pytest.mark.filterwarnings("ignore:Frechet distance over")
def test_samples_of_other_weights_or_settings_are_never_taken_for_these(judge, tmp_path):
    judge.config.evaluation.keep_samples = True
    folders = set()
    for scale, guidance, seed in [(1.0, None, 0), (0.5, None, 0), (1.0, 2.0, 0), (1.0, None, 1)]:
        settings = settings_of(judge.config)._replace(guidance=guidance)
        folders.add(Candidate(judge, weights(scale), settings, seed, tmp_path).folder)
    assert len(folders) == 4
    first = run(judge, tmp_path)
    judge.drawn.clear()
    assert numbers(run(judge, tmp_path)) == numbers(first) and not judge.drawn
    assert len(list((tmp_path / "evaluation").glob("samples_*"))) == 1


@pytest.mark.filterwarnings("ignore:Frechet distance over")
def test_a_sweep_judges_every_pair_and_the_page_holds_its_front(judge, tmp_path):
    judge.config.evaluation.update(sweep_guidance=(0.5, 1.0), sweep_steps=(5, 50), pareto=("recall", "fid"))
    with pytest.raises(ValueError, match="guidance 0.5 needs a network trained with task.drop > 0"):
        run(judge, tmp_path)
    assert not judge.drawn
    judge.config.task.drop = 0.1
    report = run(judge, tmp_path)
    points = {(point["guidance"], point["steps"]) for point in report["sweep"]}
    assert points == {(None, 50), (0.5, 5), (0.5, 50), (1.0, 5), (1.0, 50)}
    fid = {point["guidance"]: point["results"]["fid"]["value"] for point in report["sweep"]}
    assert fid[0.5] > fid[1.0]  # paler than the real images
    html = (tmp_path / "evaluation.html").read_text()
    assert html.count("<svg") == 1 and html.count("data:image/png") == 2
    loads = html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not any(word in loads for word in ("http:", "https:", "<script", "<link", "url(", 'src="/'))


@pytest.mark.filterwarnings("ignore:Frechet distance over")
def test_watching_judges_every_checkpoint_once_and_keeps_the_best(judge, tmp_path):
    judge.config.evaluation.best = "fid"
    scales = {10: 0.2, 20: 1.0, 30: 0.4}
    for step, scale in scales.items():
        posthoc.save(tmp_path, "checkpoints", step, {"0.9999": {"scale": np.float32(scale)}}, {})
    (tmp_path / "done.json").write_text("{}")
    watch(judge, settings_of(judge.config), FLAGS, tmp_path, lambda: None)
    found = {step: json.loads((tmp_path / "evaluation" / f"step_{step:08}.json").read_text()) for step in scales}
    assert {report["settings"]["checkpoint"] for report in found.values()} == set(scales)
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["step"] == 20 and best["value"] == min(numbers(report)["fid"] for report in found.values())
    kept = posthoc.holding(tmp_path, "best")
    assert kept.steps() == [20]
    like = jax.ShapeDtypeStruct((), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    assert kept.restore_weights(20, "best", {"scale": like})["scale"] == 1.0
    html = (tmp_path / "evaluation.html").read_text()
    assert "Along the training" in html
    drawn = len(judge.drawn)
    watch(judge, settings_of(judge.config), FLAGS, tmp_path, lambda: None)
    assert len(judge.drawn) == drawn


def test_the_reference_is_made_once_and_says_what_it_is(judge, tmp_path):
    judge.config.evaluation.reference_images = 150
    first = judge.reference
    assert first.made_of.n == 150 and first.made_of.split == "train" and first.made_of.shape == SHAPE
    judge.config.data.shape = (8, 8, 3)
    del judge.__dict__["reference"]
    with pytest.raises(ValueError, match=r"is the reference of something else: shape \[4, 4, 3\], here \[8, 8, 3\]"):
        _ = judge.reference


def test_a_reference_with_unreadable_images_is_refused(judge):
    source = real()._replace(skipped=lambda: ["a.jpg"])
    bad = source._replace(read=lambda index: source.read(index) | {"valid": index != 3})
    with pytest.raises(ValueError, match=r"the reference holds unreadable images \(a.jpg\): remove them"):
        readable(bad)(0, 10)


def test_words_of_a_command_line_are_names():
    assert names(("fid,fd", "likelihood_ode")) == ["fid", "fd", "likelihood_ode"] and names(("fid",)) == ["fid"]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"evaluators": ("fud",)}, "evaluation.evaluators: 'fud' is unknown; choose from clip_score, fd, fid, "),
        ({"labels": "even"}, "evaluation.labels='even' must be 'training' or 'balanced'"),
    ],
)
def test_settings_that_mean_nothing_are_one_line(config, change, said):
    config.evaluation.update(change)
    with pytest.raises(ValueError, match=said):
        check_evaluators(config)


@pytest.mark.parametrize("name", ["likelihood_vlb", "likelihood_ode"])
def test_a_likelihood_of_pixels_is_refused_for_latents_of_any_shape(config, name):
    config.latent.encoder = "patches(side=1)"
    config.evaluation.evaluators = ("validation_loss", name)
    with pytest.raises(ValueError, match=f"{name} is of pixels, and this model is of latents .latent.encoder=patches"):
        check_evaluators(config)


@pytest.mark.parametrize("content, said", [(None, "must be the path of pt_inception"), (b"x", "has sha256")])
def test_missing_or_other_weights_are_one_line(config, tmp_path, content, said):
    path = tmp_path / "weights.pth"
    if content:
        path.write_bytes(content)
    config.evaluation.inception = str(path)
    with pytest.raises(ValueError, match=said):
        _ = Judge(config, types.SimpleNamespace(mesh=data_mesh()), tmp_path).inception


@pytest.mark.parametrize("name", ["likelihood_vlb", "likelihood_ode"])
def test_a_models_bits_are_of_the_held_out_images(judge, name):
    schedule = SCHEDULES["cosine"]()
    task = dict(sample_shape=SHAPE, prepare=lambda frozen, keys, batch, train: (normalise(batch["image"]), {}))
    judge.experiment.task = types.SimpleNamespace(**task)
    judge.experiment.schedule = lambda params: schedule
    judge.experiment.denoiser = lambda params, frozen, cond: gaussian(schedule, 0.0, 1 / 3)
    judge.config.evaluation.update(likelihood_images=100, likelihood_steps=200)
    found = dict(EVALUATORS[name](Candidate(judge, weights(), settings_of(judge.config), 0, judge.workdir)))
    result = found["bits_per_dim/vlb" if name == "likelihood_vlb" else "bits_per_dim/ode"]
    # Uniform pixels under a Gaussian of their variance: 8 bits, and the Gaussian's distance from uniform.
    assert result.value == pytest.approx(8 + np.log2(np.sqrt(2 * np.pi * np.e / 12)), abs=0.1)
    assert result.settings["n"] == 100 and result.settings["split"] == "test" and result.settings["seed"] == 0


def test_labels_are_balanced_where_asked(judge):
    config = judge.config
    config.task.name, config.data.classes = "class", 10
    judge.experiment.task.labels = 10
    config.evaluation.labels = "balanced"
    one = Candidate(judge, weights(), settings_of(config), 0, judge.workdir)
    assert np.all(np.bincount(one.condition["label"]) == N // 10)


def test_prompts_are_drawn_in_turn_scored_and_laid_out_by_category(judge, tmp_path):
    (tmp_path / "bench.csv").write_text("Prompts,Category\na red cat,Colors\ntwo dogs,Counting\na blue car,Colors\n")
    judge.config.evaluation.update(evaluators=("clip_score",), samples=12, prompts=str(tmp_path / "bench.csv"))
    judge.experiment.text = byte_encoder(length=16)
    images = np.random.default_rng(2).normal(size=(48, 5)).astype(np.float32)
    extract = extractor(lambda w, x: Outputs(features(images, x).pool, None, None), None, judge.mesh)
    judge.clip = Clip(extract, lambda texts: np.eye(5)[[len(text) % 5 for text in texts]], "c" * 64, "none")
    report = run(judge, tmp_path)
    score = report["results"]["clip_score"]
    assert score["n"] == 12 and score["prompts"].endswith("bench.csv") and score["network"] == "c" * 64
    one = Candidate(judge, weights(), settings_of(judge.config), 0, tmp_path)
    assert [prompt.text for prompt in one.prompts[:4]] == ["a red cat", "two dogs", "a blue car", "a red cat"]
    np.testing.assert_array_equal(one.condition["tokens"][0], one.condition["tokens"][3])
    html = (tmp_path / "evaluation.html").read_text()
    assert "<h2>Colors</h2>" in html and html.count("<figcaption>a red cat") == 1
    judge.experiment.text = None
    del judge.__dict__["prompts"]
    with pytest.raises(ValueError, match="evaluation.prompts: this model takes no text"):
        _ = judge.prompts


def dinov2_folder(tmp_path):
    """A small DINOv2 on random weights (tests/models/tower_states.py), as a folder."""
    models = pathlib.Path(__file__).parent / "models"
    sys.path.append(str(models))
    try:
        import tower_states
    finally:
        sys.path.remove(str(models))
    with np.load(models / "golden" / "towers.npz") as stored:
        tower_states.write(tmp_path / "dinov2", "dinov2", json.loads(str(stored["shapes"]))["dinov2"])
    return str(tmp_path / "dinov2")


@pytest.mark.filterwarnings("ignore:Frechet distance over")
def test_other_features_give_their_own_distances(judge, tmp_path):
    judge.config.evaluation.update(evaluators=("fd",), samples=40, tower=dinov2_folder(tmp_path), reference_images=60)
    report = run(judge, tmp_path)
    fd = report["results"]["dinov2/fd"]
    assert fd["value"] > 0 and fd["dimensions"] == 32 and fd["reference"]["resize"].startswith("Pillow bicubic")
    assert fd["reference"]["network"] == judge.tower.hash and "dinov2/sfid" not in report["results"]
