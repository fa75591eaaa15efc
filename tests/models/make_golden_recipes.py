"""What EDM's SongUNet, EDM2's network and DiT answer on random weights, into golden/recipes.npz.

    pip install torch==2.14.1 timm==1.0.31 numpy scipy
    EDM=.. EDM2=.. DIT=.. python tests/models/make_golden_recipes.py             # small networks, for the tests
    EDM=.. EDM2=.. DIT=.. python tests/models/make_golden_recipes.py --count     # parameters at the published sizes

EDM, EDM2 and DIT are checkouts of NVlabs/edm, NVlabs/edm2 and facebookresearch/DiT.
"""

import functools
import importlib.util
import json
import os
import pathlib
import sys

import numpy as np
import recipe_states
import torch
import unet_states

GOLDEN = pathlib.Path(__file__).parent / "golden"


@functools.cache
def loaded(name: str, file: str):
    """A module of a checkout, whose packages bear names of ones here, and of those of the checkout before it."""
    for package in [key for key in sys.modules if key.split(".")[0] in ("torch_utils", "dnnlib", "training")]:
        del sys.modules[package]
    root = os.environ[name]
    sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location(f"their_{name.lower()}", f"{root}/{file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(root)
    return module


def song_unet(**more):
    return loaded("EDM", "training/networks.py").SongUNet(**more)


def edm2_unet(**more):
    return loaded("EDM2", "training/networks_edm2.py").UNet(**more)


def dit(**more):
    return loaded("DIT", "models.py").DiT(**more)


def filled(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """The network's state, drawn anew and put into it; fixed filters and positions stay."""
    state = {name: x.numpy() for name, x in network.state_dict().items()}
    state |= unet_states.weights({name: x.shape for name, x in state.items() if not recipe_states.fixed(name)})
    network.load_state_dict({name: torch.as_tensor(x) for name, x in state.items()})
    network.eval()
    return {name: x for name, x in state.items() if not recipe_states.fixed(name)}


def images(channels: int) -> torch.Tensor:
    return torch.from_numpy(unet_states.images(8, channels)).permute(0, 3, 1, 2)


def augmentation() -> dict[str, np.ndarray]:
    """Images, what EDM's augmentation made of them and told of it, and what it drew: its calls are listened to."""
    drawn, real = [], {name: getattr(torch, name) for name in ("rand", "randn", "randint")}

    def listen(name):
        def draw(*args, **more):
            drawn.append(real[name](*args, **more))
            return drawn[-1]

        return draw

    pipe = loaded("EDM", "training/augment.py").AugmentPipe
    kinds = dict(xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1)
    torch.manual_seed(3)
    x = real["rand"](6, 3, 8, 8) * 2 - 1
    for name in real:
        setattr(torch, name, listen(name))
    y, told = pipe(p=0.7, **kinds)(x)
    for name in real:
        setattr(torch, name, real[name])
    draws = [draw.reshape(*draw.shape[:-3], -1) if draw.ndim > 3 else draw for draw in drawn]
    mirror, _, flip, flips, scale, scales, turn, turns, stretch, axis, stretches, axes, shift, shifts = (
        draw.squeeze().numpy() for draw in draws
    )
    found = {
        "mirror": mirror,
        "flip": np.where(flips < 0.7, flip, 0),
        "scale": np.where(scales < 0.7, scale, 0),
        "turn": np.where(turns < 0.7, (2 * turn - 1) * np.pi, 0),
        "stretch": np.where(stretches < 0.7, stretch, 0),
        "axis": np.where(axes < 0.5, (2 * axis - 1) * np.pi, 0),
        "shift": np.where(shifts < 0.7, shift, 0).T,
    }
    images = {"images": x.permute(0, 2, 3, 1).numpy(), "changed": y.permute(0, 2, 3, 1).numpy(), "told": told.numpy()}
    return {f"augment_{name}": np.float32(value) for name, value in (images | found).items()}


@torch.no_grad()
def small() -> None:
    golden, shapes = {}, {}

    def keep(name, network, *given, **more):
        if name not in shapes:
            shapes[name] = {key: list(value.shape) for key, value in filled(network).items()}
        return network(*given, **more).permute(0, 2, 3, 1).numpy()

    noise = torch.from_numpy(np.log(unet_states.SIGMAS) / 4)
    labels = torch.eye(5)[torch.from_numpy(unet_states.LABELS)]
    network = song_unet(**recipe_states.SONG)
    golden["song"] = keep("song", network, images(3), noise, labels)
    told = torch.from_numpy(recipe_states.AUGMENT)
    golden["song_augmented"] = keep("song", network, images(3), noise, labels, augment_labels=told)
    golden["edm2"] = keep("edm2", edm2_unet(**recipe_states.EDM2), images(3), noise, labels)
    times, rows = torch.from_numpy(unet_states.TIMES), torch.from_numpy(unet_states.LABELS)
    golden["dit"] = keep("dit", dit(**recipe_states.DIT), images(4), times, rows)
    golden |= augmentation()
    for name, value in golden.items():
        print(name, value.shape, value.std())
    np.savez_compressed(GOLDEN / "recipes.npz", shapes=json.dumps(shapes), **golden)


def count() -> None:
    edm = dict(img_resolution=32, in_channels=3, out_channels=3, channel_mult=[2, 2, 2], attn_resolutions=[16])
    edm2 = dict(img_resolution=64, img_channels=3, label_dim=1000)
    sizes = {
        "EDM CIFAR-10": lambda: song_unet(**edm, augment_dim=9),
        "EDM CIFAR-10, class-conditional": lambda: song_unet(**edm, augment_dim=9, label_dim=10),
    }
    for name, width in dict(XS=128, S=192, M=256, L=320, XL=384).items():
        sizes[f"EDM2 ImageNet-64 {name}"] = lambda width=width: edm2_unet(**edm2, model_channels=width)
    for name, (width, depth, heads) in recipe_states.DITS.items():
        for patch in (2, 4, 8):
            size = dict(hidden_size=width, depth=depth, num_heads=heads, patch_size=patch)
            sizes[f"DiT-{name}/{patch}"] = lambda size=size: dit(input_size=32, **size)
    for name, build in sizes.items():
        trained = [x.numel() for x in build().parameters() if x.requires_grad]
        print(f"{name}: {sum(trained):,}", flush=True)


if __name__ == "__main__":
    count() if "--count" in sys.argv else small()
