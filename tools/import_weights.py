"""Published networks into a workdir that --mode=sample and --mode=evaluate use, and one of ours into diffusers' folder.

    python -m tools.import_weights --format=diffusers --source=ddpm-cifar10-32 --workdir=runs/ddpm
    python -m tools.import_weights --format=guided_diffusion --source=64x64_diffusion.pt --workdir=runs/adm64
    python -m tools.import_weights --format=edm --source=edm.pt --workdir=runs/edm64          # or edm2
    python -m tools.import_weights --export=FOLDER --workdir=runs/mine

docs/import.md says which files are known, and what to do about EDM's .pkl. To train on from them, name the workdir in
config.init_from, with config.init_weights=0.9999.
"""

import json
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import NamedTuple

from absl import flags, logging
from etils import epath
from flax import linen as nn

import workdir as records
from configs import base
from experiment import build
from models import MODELS, safetensors
from models.published import diffusers, edm, edm2, guided_diffusion
from models.unet import UNet
from modes.weights import restored
from tools import command
from training import ema, posthoc
from training.checkpoint import absolute
from training.metrics import write_json

# diffusers' words for schedules and predictions, and this project's.
SCHEDULES = {"linear": "linear(steps={})", "squaredcos_cap_v2": "cosine_discrete(steps={})"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


class Imported(NamedTuple):
    """A network, its parameters, and the mathematics that it was trained with, as keys of a config."""

    net: nn.Module  # one of MODELS
    params: dict
    keys: dict


def from_diffusers(source: str, settings: str | None) -> Imported:
    net, params = diffusers.load(source)
    return Imported(net, params, scheduler_keys(source))


def scheduler_keys(source: str) -> dict:
    """What scheduler_config.json says of a training. Raises ValueError for what is not here."""
    root = epath.Path(source)
    places = [root / "scheduler" / "scheduler_config.json", root / "scheduler_config.json"]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise ValueError(f"{root} has no scheduler_config.json, which says what the network was trained on")
    said = json.loads(path.read_text())
    schedule, prediction = said.get("beta_schedule", "linear"), said.get("prediction_type", "epsilon")
    ends = said.get("beta_start", 1e-4), said.get("beta_end", 0.02)
    if schedule not in SCHEDULES or prediction not in PREDICTIONS or (schedule == "linear" and ends != (1e-4, 0.02)):
        raise ValueError(f"{path}: {schedule} from {ends[0]} to {ends[1]} with {prediction} is not known here")
    steps = said.get("num_train_timesteps", 1000)
    if schedule == "linear" and steps != 1000:
        raise ValueError(f"{path}: a linear schedule of {steps} steps is another one than DDPM's, of 1000")
    return {"diffusion.schedule": SCHEDULES[schedule].format(steps), "diffusion.prediction": PREDICTIONS[prediction]}


def from_guided_diffusion(source: str, settings: str | None) -> Imported:
    given = guided_diffusion.known(source) if settings is None else guided_diffusion.settings(settings)
    net, params = guided_diffusion.load(source, given)
    keys = {"task.low_size": given.get("small_size", 0)}
    if given.get("learn_sigma"):
        keys |= {"diffusion.loss": "hybrid", "sampling.sampler": 'ancestral(variance="learned")', "sampling.steps": 250}
    return Imported(net, params, keys)


PRECONDITIONED = {
    "diffusion.schedule": "edm",
    "diffusion.prediction": "edm(sigma_data=0.5)",
    "diffusion.weighting": "edm(sigma_data=0.5)",
    "diffusion.times": "log_normal",
    "sampling.sampler": "heun",
    "sampling.grid": "karras",
    "sampling.steps": 18,
    "sampling.threshold": "none",
}


def from_edm(source: str, settings: str | None) -> Imported:
    net, params = edm.load(source)
    augmented = {"task.augment": 0.12} if "augment" in params else {}  # told zeros in sampling
    return Imported(net, params, PRECONDITIONED | augmented)


def from_edm2(source: str, settings: str | None) -> Imported:
    net, params = edm2.load(source)
    more = {"diffusion.times": "log_normal(mean=-0.8, std=1.6)", "sampling.steps": 32}
    return Imported(net, params, PRECONDITIONED | more)


FORMATS = {"diffusers": from_diffusers, "guided_diffusion": from_guided_diffusion, "edm": from_edm, "edm2": from_edm2}


# The fields of the network that a config gives; sizes and labels follow from data and task.
SHAPING = ("channels", "multipliers", "blocks", "attention", "num_heads", "head_channels", "scale_shift", "resample")
SHAPING += ("convention", "dropout", "groups")


def config_of(imported: Imported):
    """The config under which this project builds the same network."""
    net, config = imported.net, base.get_config()
    name = next(name for name, kind in MODELS.items() if type(net) is kind)
    inputs = imported.params["conv_in"]["kernel"].shape[2] - (name == "edm2_unet")  # which adds a channel of ones
    channels = inputs // (2 if imported.keys.get("task.low_size") else 1)
    config.data.update(name="folder", shape=(net.size, net.size, channels), classes=net.num_labels)
    config.task.name = "class" if net.num_labels else "unconditional"
    config.model.update({key: getattr(net, key) for key in SHAPING if hasattr(net, key)} | {"name": name})
    config.update_from_flattened_dict(imported.keys)
    return config


def write(workdir: epath.Path, imported: Imported, source: str) -> None:
    """config.json and checkpoint 0, which holds the parameters under the config's average and nothing else."""
    if (workdir / "checkpoints").exists():
        raise ValueError(f"{workdir} holds checkpoints already: name another --workdir")
    config = config_of(imported)
    build(config)
    records.write_config(workdir, config)
    posthoc.save(
        workdir,
        "checkpoints",
        0,
        {ema.first_name(config.ema): imported.params},
        {"imported": source},
    )
    records.record_start(workdir, mode="import", source=source)


def export(folder: epath.Path, workdir: epath.Path, asked) -> None:
    """A folder that diffusers' DDPMPipeline.from_pretrained reads. asked: checkpoint and ema, or None."""
    config = records.read_config(workdir)
    experiment = build(config)
    weights = restored(config, experiment, workdir, asked)
    net = unet_of(config, experiment.task, weights.params)
    settings = diffusers.config_of(net) | {"in_channels": weights.params["conv_in"]["kernel"].shape[2]}
    write_json(folder / "unet" / "config.json", settings)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler_of(config))
    tensors = diffusers.to_state(net, weights.params)
    safetensors.write(str(folder / "unet" / f"{diffusers.WEIGHTS}.safetensors"), tensors)
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    write_json(folder / "model_index.json", {"_class_name": "DDPMPipeline"} | index)


def unet_of(config, task, params: Mapping) -> UNet:
    if config.model.name != "unet" or config.task.name == "text" or config.task.low_size:
        raise ValueError(
            f"diffusers' UNet2DModel is a 'unet' of images or classes: not model.name={config.model.name}, "
            f"task.name={config.task.name}, task.low_size={config.task.low_size}"
        )
    fields = {name: config.model[name] for name in SHAPING}
    out = params["conv_out"]["bias"].shape[0]
    return UNet(size=config.data.shape[0], out_channels=out, num_labels=task.labels, **fields)


def scheduler_of(config) -> dict:
    """scheduler_config.json. Raises ValueError for a training that DDPMScheduler has no words for."""
    known = {schedule.format(1000): name for name, schedule in SCHEDULES.items()}
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    schedule, prediction = config.diffusion.schedule, config.diffusion.prediction
    if schedule not in known or prediction not in predictions:
        raise ValueError(f"diffusers' DDPMScheduler has no words for {schedule} with {prediction}")
    learned = config.diffusion.loss != "weighted"
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": 1000,
        "beta_schedule": known[schedule],
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction_type": predictions[prediction],
        "variance_type": "learned_range" if learned else "fixed_small",
        "clip_sample": True,
    }


def define(add: dict) -> None:
    flags.DEFINE_string("workdir", None, "Where the import goes, or the run to export lies.", required=True, **add)
    flags.DEFINE_enum("format", None, sorted(FORMATS), "Whose network it is.", **add)
    flags.DEFINE_string("source", None, "The folder or file.", **add)
    flags.DEFINE_string("settings", None, "guided_diffusion: MODEL_FLAGS of a network that is not known.", **add)
    flags.DEFINE_string("export", None, "Folder for diffusers, written from the workdir's weights.", **add)
    flags.DEFINE_integer("checkpoint", None, "export: the step; default the latest.", **add)
    flags.DEFINE_string("ema", None, "export: the average; default the config's first.", **add)


def act(options: dict) -> str:
    workdir = epath.Path(absolute(options["workdir"]))
    if options["export"]:
        export(epath.Path(absolute(options["export"])), workdir, SimpleNamespace(**options))
        return f"written: {options['export']}"
    if not (options["format"] and options["source"]):
        raise ValueError("give --format and --source to import, or --export to export")
    write(workdir, FORMATS[options["format"]](options["source"], options["settings"]), options["source"])
    return f"imported: python main.py --mode=sample --workdir={options['workdir']}"


def main(argv: list[str]) -> None:
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # Orbax warns of its own options
    try:
        command.run(argv, __doc__, define, act)
    finally:
        logging.set_verbosity(before)


if __name__ == "__main__":
    main(sys.argv)
