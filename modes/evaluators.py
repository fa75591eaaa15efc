"""Evaluators by name: a Candidate -> (name, Result)s. What they compute is in evaluation/; here it meets a config."""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from evaluation import likelihood
from evaluation.clip_score import clip_score as score_of_clip
from evaluation.compare import compare
from evaluation.results import Result
from evaluation.small_images import ImageSet, judge
from input_pipeline import evaluation_batches
from input_pipeline.batches import local_rows
from input_pipeline.source import some
from models import inception
from modes import given
from modes.candidate import Candidate
from modes.judge import Judge
from training import sharding

Results = Iterator[tuple[str, Result]]


def validation_loss(candidate: Candidate) -> Results:
    """The deterministic validation loss on the evaluation split."""
    config, experiment = candidate.config, candidate.experiment
    value, n = experiment.validation_loss(candidate.weights.params, candidate.judge.frozen, candidate.check)
    settings = dict(split=config.data.eval_split, n=n, draws=config.evaluation.validation_draws)
    if config.family == "diffusion":
        settings["weighting"] = config.diffusion.weighting
    yield "validation_loss", Result(value, settings)


def small_images(candidate: Candidate) -> Results:
    """The judgement of evaluation/small_images.py, of samples and of both splits, all held in memory."""
    config, labels = candidate.config, candidate.condition.get("label")
    splits = config.data.train_split, config.data.eval_split
    real = [everything(candidate.experiment.source(split), labels) for split in splits]
    yield from judge(ImageSet(candidate.images, labels), *real)


def everything(source, labels) -> ImageSet:
    """All readable images of a source, labelled if the samples are."""
    batch = source.read(np.arange(source.size))
    kept = batch["valid"]
    return ImageSet(batch["image"][kept], None if labels is None else batch["label"][kept])


def fid(candidate: Candidate) -> Results:
    """All that rests on Inception's features, against evaluation.reference_split."""
    reference = candidate.judge.reference
    yield from compare(candidate.statistics(candidate.judge.inception, inception.SHA256), reference)


def fd(candidate: Candidate) -> Results:
    """The same distances of DINOv2's or CLIP's features: dinov2/fd, dinov2/kid, ..."""
    judge = candidate.judge
    found = compare(candidate.statistics(judge.tower_extract, judge.tower.hash), judge.tower_reference)
    for name, result in found:
        yield f"{judge.tower.kind}/{'fd' if name == 'fid' else name}", result


def clip_score(candidate: Candidate) -> Results:
    """How well samples fit the prompts of evaluation.prompts, by the CLIP of evaluation.clip."""
    judge = candidate.judge
    texts = [prompt.text for prompt in candidate.prompts]
    features = candidate.features(judge.clip.extract, judge.clip.hash)
    settings = {"network": judge.clip.hash, "prompts": candidate.config.evaluation.prompts, "resize": judge.clip.resize}
    yield from score_of_clip(features, judge.clip.encode(texts), settings)


def likelihood_own(candidate: Candidate) -> Results:
    """Bits per dimension of held-out images as the family itself gives them: a bound, or exact, as their name says."""
    yield from held_out_bits(candidate, candidate.experiment.bits, {})


def likelihood_vlb(candidate: Candidate) -> Results:
    """Bits per dimension of held-out images, at most, by the variational bound."""
    draws = candidate.config.evaluation.likelihood_steps
    yield from of_diffusion(candidate, likelihood.bound, draws, {"variance": "learned, or the forward step's"})


def likelihood_ode(candidate: Candidate) -> Results:
    """The same by the probability-flow ODE: of dequantised values, so at most, and with the solver's error."""
    steps = candidate.config.evaluation.likelihood_steps
    yield from of_diffusion(candidate, likelihood.flow, steps, {"solver": "Heun, steps equal in logsnr"})


def of_diffusion(candidate: Candidate, method: Callable, steps: int, settings: dict) -> Results:
    """By a method that calls the denoiser `steps` times."""
    experiment = candidate.experiment
    bits_of = method(experiment.task.prepare, experiment.denoiser, experiment.schedule, steps)
    settings = {"steps": steps} | settings | {"threshold": "none", "guidance": None}
    yield from held_out_bits(candidate, bits_of, settings)


def held_out_bits(candidate: Candidate, bits_of: likelihood.Bits, settings: dict) -> Results:
    config, experiment, mesh = candidate.config, candidate.experiment, candidate.experiment.mesh
    source = some(experiment.source(config.data.eval_split), config.evaluation.likelihood_images)
    size = sharding.round_up(min(config.sampling.batch_size, source.size), sharding.batch_parts(mesh))
    share = sharding.batch_share(mesh)
    places = (start + local_rows(size, **share) for start in range(0, source.size, size))

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def program(params, frozen, batch):
        key = jax.random.fold_in(jax.random.key(candidate.seed), LIKELIHOOD)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
        return bits_of(params, frozen, batch, keys), batch["valid"]

    def bits(batch):
        candidate.check()
        placed = sharding.put_batch(batch | {"index": next(places).astype(np.uint32)}, mesh)
        return program(candidate.weights.params, candidate.judge.frozen, placed)

    settings = {"split": config.data.eval_split, "seed": candidate.seed} | settings
    yield from likelihood.likelihood(bits, evaluation_batches(source, size, **share), settings)


LIKELIHOOD = 2**32 - 6  # the noise of likelihoods, apart from that of samples

EVALUATORS: dict[str, Callable[[Candidate], Results]] = {
    "validation_loss": validation_loss,
    "small_images": small_images,
    "fid": fid,
    "fd": fd,
    "clip_score": clip_score,
    "likelihood": likelihood_own,
    "likelihood_vlb": likelihood_vlb,
    "likelihood_ode": likelihood_ode,
    "super_resolution": given.super_resolution,
    "wordings": given.wordings,
}
# Those that not every family has.
OF_FAMILIES = {
    "validation_loss": ("diffusion", "vae", "autoregressive"),
    "likelihood": ("vae", "autoregressive"),
    "likelihood_vlb": ("diffusion",),
    "likelihood_ode": ("diffusion",),
    "super_resolution": ("diffusion",),
}
# Those that a sweep over the settings of sampling repeats.
OF_SAMPLES = ("small_images", "super_resolution", "wordings", "fid", "fd", "clip_score")
# What an evaluator needs beside the workdir, looked for before anything is drawn.
NEEDS: dict[str, Callable[[Judge], object]] = {
    "fid": lambda judge: judge.inception,
    "fd": lambda judge: judge.tower,
    "clip_score": lambda judge: (judge.asked_prompts(), judge.clip),
}

# Numbers that are better when they are higher; of all others the lower is the better.
HIGHER = {"inception_score", "precision", "recall", "svc/agreement", "nearest_ratio", "clip_score"}
HIGHER_KINDS = ("read", "psnr", "ssim", "consistency")  # and all whose name begins so


def better(name: str, a: float, b: float) -> bool:
    """Whether a is a better value than b of the number of this name."""
    higher = name in HIGHER or name.rpartition("/")[2] in HIGHER or name.partition("/")[0] in HIGHER_KINDS
    return a > b if higher else a < b


def names(words: tuple[str, ...]) -> list[str]:
    """Those of a config's tuple: on a command line 'a,b' comes as one word of it."""
    return [name for word in words for name in word.split(",") if name]


def check_evaluators(config) -> None:
    """Names that are unknown, before anything is read."""
    for name in names(config.evaluation.evaluators):
        if name not in EVALUATORS:
            choices = ", ".join(sorted(EVALUATORS))
            raise ValueError(f"evaluation.evaluators: {name!r} is unknown; choose from {choices}")
        if config.family not in OF_FAMILIES.get(name, (config.family,)):
            whose = " and ".join(OF_FAMILIES[name])
            raise ValueError(
                f"evaluation.evaluators: {name} is of family={whose}, and this config's is {config.family}"
            )
        if config.latent.encoder and name in ("likelihood_vlb", "likelihood_ode"):
            raise ValueError(
                f"evaluation.evaluators: {name} is of pixels, and this model is of latents "
                f"(latent.encoder={config.latent.encoder}): leave it out"
            )
    if config.evaluation.labels not in ("training", "balanced"):
        raise ValueError(f"evaluation.labels={config.evaluation.labels!r} must be 'training' or 'balanced'")
