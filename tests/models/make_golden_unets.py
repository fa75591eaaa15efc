"""What diffusers', guided-diffusion's and EDM's networks answer on random weights, into golden/unets.npz.

    pip install torch==2.13.0 diffusers==0.42.1 -r requirements.txt
    export PYTHONPATH=.:$GUIDED_DIFFUSION:$EDM
    python tests/models/make_golden_unets.py                # small networks, for the tests
    python tests/models/make_golden_unets.py --full         # the published sizes, or those named: a table
    python tests/models/make_golden_unets.py --narrow       # guided-diffusion's at 64 channels
    python tests/models/make_golden_unets.py --path         # 50 steps of DDIM with ddpm-cifar10-32's network

EDM and GUIDED_DIFFUSION are checkouts of NVlabs/edm and openai/guided-diffusion.
"""

import functools
import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import diffusers
import jax
import numpy as np
import torch
import unet_states
from guided_diffusion.script_util import create_model, sr_create_model

from diffusion.grids import GRIDS
from diffusion.prediction import PARAMETERISATIONS, denoiser
from diffusion.samplers import SAMPLERS
from diffusion.sampling import trajectory
from diffusion.schedules import SCHEDULES
from models.published import diffusers as from_diffusers
from models.published import edm as from_edm
from models.published import guided_diffusion as from_guided

GOLDEN = pathlib.Path(__file__).parent / "golden"
NETWORK = ("num_channels", "num_res_blocks", "channel_mult", "learn_sigma", "class_cond", "attention_resolutions")
NETWORK += ("num_heads", "num_head_channels", "use_scale_shift_norm", "resblock_updown", "use_new_attention_order")
STEPS = 50

# The settings of google/ddpm-cifar10-32 and of google/ddpm-celebahq-256, ddpm-church-256, ddpm-bedroom-256.
WIDE = unet_states.DDPM | {"layers_per_block": 2}
PUBLISHED = {
    "ddpm-cifar10-32": WIDE
    | {
        "sample_size": 32,
        "block_out_channels": [128, 256, 256, 256],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
    "ddpm-celebahq-256": WIDE
    | {
        "sample_size": 256,
        "block_out_channels": [128, 128, 256, 256, 512, 512],
        "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    },
}
EDM_64 = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "augment_dim": 0}


def edm_networks():
    """EDM's training/networks.py, whose package bears the name of one here."""
    spec = importlib.util.spec_from_file_location("edm_networks", f"{os.environ['EDM']}/training/networks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its classes look for themselves there
    spec.loader.exec_module(module)
    return module


class Answer(NamedTuple):
    """What one of their networks was given, and its output [b c h w]."""

    state: dict[str, np.ndarray]
    x: np.ndarray
    noise_input: np.ndarray
    cond: dict[str, np.ndarray]
    out: torch.Tensor
    network: torch.nn.Module | None = None  # where it is asked again


def torch_images(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def filled(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """The network's state, drawn anew and put into it; buffers stay."""
    state = {name: x.numpy() for name, x in network.state_dict().items()}
    drawn = unet_states.weights({name: x.shape for name, x in state.items() if "resample_filter" not in name})
    state |= drawn
    network.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()})
    network.eval()
    return state


def guided_network(settings: dict):
    given = from_guided.DEFAULTS | settings
    words = {name: given[name] for name in NETWORK}
    if not given["small_size"]:
        return create_model(given["image_size"], **words)
    heads = {"use_checkpoint": False, "num_heads_upsample": -1, "dropout": 0.0, "use_fp16": False}
    if given["channel_mult"]:  # sr_create_model takes the published sizes alone
        from guided_diffusion.unet import SuperResModel

        size = given["image_size"]
        return SuperResModel(
            image_size=size,
            in_channels=3,
            model_channels=given["num_channels"],
            out_channels=6,
            num_res_blocks=given["num_res_blocks"],
            attention_resolutions=tuple(size // int(side) for side in given["attention_resolutions"].split(",")),
            channel_mult=tuple(int(m) for m in given["channel_mult"].split(",")),
            num_classes=from_guided.LABELS,
            num_head_channels=given["num_head_channels"],
            use_scale_shift_norm=True,
            resblock_updown=True,
        )
    words = {name: value for name, value in words.items() if name not in ("channel_mult", "use_new_attention_order")}
    return sr_create_model(given["image_size"], given["small_size"], **words, **heads)


@torch.no_grad()
def of_diffusers(config: dict, side: int):
    network, x = diffusers.UNet2DModel(**config), unet_states.images(side)
    state = filled(network)
    labels = torch.from_numpy(unet_states.LABELS) if config.get("num_class_embeds") else None
    out = network(torch_images(x), torch.from_numpy(unet_states.TIMES), class_labels=labels).sample
    cond = {"label": unet_states.LABELS} if labels is not None else {}
    return Answer(state, x, unet_states.TIMES, cond, out, network)


@torch.no_grad()
def of_guided(settings: dict, side: int) -> Answer:
    network, x = guided_network(settings), unet_states.images(side)
    state, cond, more = filled(network), {}, {}
    if settings.get("class_cond"):
        more["y"] = torch.from_numpy(unet_states.LABELS)
        cond["label"] = unet_states.LABELS
    if settings.get("small_size"):
        cond["low_res"] = unet_states.images(side, seed=1)  # already at the size of x: resizing it is the task's
        more["low_res"] = torch_images(cond["low_res"])
    out = network(torch_images(x), torch.from_numpy(unet_states.TIMES), **more)
    return Answer(state, x, unet_states.TIMES, cond, out)


@torch.no_grad()
def of_edm(config: dict, side: int):
    network, x = edm_networks().EDMPrecond(**config), unet_states.images(side)
    state, labels = filled(network), np.eye(config["label_dim"], dtype=np.float32)[unet_states.LABELS]
    c_noise = np.log(unet_states.SIGMAS) / 4
    out = network.model(torch_images(x), torch.from_numpy(c_noise), torch.from_numpy(labels))
    return Answer(state, x, c_noise, {"label": unet_states.LABELS}, out)


@torch.no_grad()
def ddim_path(network, x: np.ndarray) -> np.ndarray:
    """x after each of STEPS steps of diffusers' DDIM on DDPM's levels [steps b h w c]."""
    scheduler, x, path = diffusers.DDIMScheduler(clip_sample=False, beta_end=0.02, beta_start=1e-4), torch_images(x), []
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.repeat(len(x))).sample, t, x).prev_sample
        path.append(x.permute(0, 2, 3, 1).numpy())
    return np.stack(path)


def our_ddim_path(net, params, x: np.ndarray) -> np.ndarray:
    """The same of this project's network, grid and sampler."""
    schedule = SCHEDULES["linear"]()
    apply = functools.partial(net.apply, {"params": params})
    denoise = denoiser(apply, {}, schedule, PARAMETERISATIONS["eps"](schedule))
    keys, times = jax.vmap(jax.random.key)(np.arange(len(x))), GRIDS["leading"](schedule, STEPS)
    return np.asarray(jax.jit(lambda x: trajectory(keys, denoise, SAMPLERS["ddim"](schedule), times, x))(x))[1:]


def paths(name: str, config: dict) -> None:
    """Prints how far apart 50 steps of DDIM take the two."""
    answer = of_diffusers(config, config["sample_size"])
    theirs = ddim_path(answer.network, answer.x)
    ours = our_ddim_path(*from_diffusers.to_unet(answer.state, full(config)), answer.x)
    for step in (1, 10, 25, 50):
        apart, largest = np.abs(ours - theirs)[step - 1].max(), np.abs(theirs[step - 1]).max()
        print(f"| {name}, DDIM step {step} of {STEPS} | {apart:.1e} | largest value {largest:.3g} |", flush=True)


def compared(name: str, answer: Answer, to_unet: Callable) -> np.ndarray:
    """Prints how far this project's network is from theirs; their output [b h w c]."""
    net, params = to_unet(answer.state)
    ours = jax.jit(lambda *given: net.apply({"params": params}, *given))(answer.x, answer.noise_input, answer.cond)
    theirs = answer.out.permute(0, 2, 3, 1).numpy()
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    worst = np.abs(theirs - ours).max()
    print(f"| {name} | {count:,} | {list(answer.x.shape)} | {worst:.1e} | {theirs.std():.2f} |", flush=True)
    return theirs


def small() -> None:
    golden, shapes = {}, {}

    def keep(name, answer, to_unet):
        golden[name] = compared(name, answer, to_unet)
        shapes[name] = {key: list(value.shape) for key, value in answer.state.items()}

    for name, config in unet_states.DIFFUSERS.items():
        answer = of_diffusers(config, 8)
        keep(f"diffusers_{name}", answer, lambda state, c=config: from_diffusers.to_unet(state, full(c)))
        if name == "ddpm":
            golden["ddim_path"] = ddim_path(answer.network, answer.x)[[0, 9, 19, 29, 39, 49]]
    for name, given in unet_states.GUIDED.items():
        keep(f"guided_{name}", of_guided(given, 8), lambda s, g=given: from_guided.to_unet(s, g))
    keep("edm", of_edm(unet_states.EDM, 8), from_edm.to_unet)
    np.savez_compressed(GOLDEN / "unets.npz", shapes=json.dumps(shapes), **golden)


def full(config: dict) -> dict:
    """As diffusers writes it to config.json."""
    return dict(diffusers.UNet2DModel(**config).config)


def published() -> None:
    """Wide networks answer crops of 64 pixels: the same weights and layers, less time.

    Those named on the command line, or all; the largest takes 10 GB.
    """
    names = [name for name in (*PUBLISHED, *from_guided.FILES, "edm-imagenet-64x64-cond-adm") if wanted(name)]
    for name, config in PUBLISHED.items():
        if name not in names:
            continue
        theirs = of_diffusers(config, min(config["sample_size"], 64))
        compared(name, theirs, lambda s, c=config: from_diffusers.to_unet(s, full(c)))
    for name, given in from_guided.FILES.items():
        if name in names:
            compared(name, of_guided(given, 64), lambda s, g=given: from_guided.to_unet(s, g))
    if "edm-imagenet-64x64-cond-adm" in names:
        compared("edm-imagenet-64x64-cond-adm", of_edm(EDM_64, 64), from_edm.to_unet)


def narrow() -> None:
    """guided-diffusion's networks at 64 channels and 16 a head: all else as published, for machines of less memory."""
    for name, given in from_guided.FILES.items():
        if wanted(name):
            per_head = 16 if given.get("num_head_channels", -1) > 0 else -1
            small = given | {"num_channels": 64, "num_head_channels": per_head}
            compared(f"{name}, 64 channels", of_guided(small, 64), lambda s, g=small: from_guided.to_unet(s, g))


def wanted(name: str) -> bool:
    """Of the networks that are alike (LSUN's) one is enough."""
    asked = sys.argv[2:]
    return name in asked if asked else name == "lsun_bedroom" or not name.startswith("lsun_")


MODES = {
    "--full": published,
    "--narrow": narrow,
    "--path": lambda: paths("ddpm-cifar10-32", PUBLISHED["ddpm-cifar10-32"]),
}

if __name__ == "__main__":
    MODES.get(sys.argv[1], small)() if len(sys.argv) > 1 else small()
