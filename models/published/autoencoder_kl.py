"""diffusers' AutoencoderKL, as a folder with config.json and the weights, as `VAE` and its parameters.

vae, params = load("sd-vae-ft-mse")
"""

import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from models.published import diffusers
from models.published.layout import Layout, Tensors, listed, ours, their_name
from models.vae import VAE

# Settings that the network here has no choice about, with their defaults there.
FIXED = {"act_fn": "silu", "mid_block_add_attention": True}
DEFAULTS = {
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": 32,
    "block_out_channels": (64,),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}


def fields(config: Mapping) -> dict:
    """config.json -> fields of `VAE`. Raises ValueError naming the setting that it cannot express."""
    for key, only in FIXED.items():
        if config.get(key, only) != only:
            raise ValueError(f"config.json: {key}={config[key]!r} cannot be expressed here, only {only!r}")
    config = DEFAULTS | dict(config)
    for key, kind in ("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D"):
        if others := set(config.get(key, ())) - {kind}:
            raise ValueError(f"config.json: {key} {', '.join(sorted(others))} cannot be expressed here, only {kind}")
    for a, b in ("in_channels", "out_channels"), ("use_quant_conv", "use_post_quant_conv"):
        if config[a] != config[b]:
            raise ValueError(f"config.json: {a}={config[a]} and {b}={config[b]} must agree here")
    widths = config["block_out_channels"]
    return {
        "size": config["sample_size"],
        "out_channels": config["out_channels"],
        "latent": config["latent_channels"],
        "channels": widths[0],
        "multipliers": tuple(width / widths[0] for width in widths),
        "blocks": config["layers_per_block"],
        "pointwise": config["use_quant_conv"],
        "groups": config["norm_num_groups"],
    }


def blocks(net: VAE) -> dict[str, str]:
    """Our blocks, encoder's and decoder's, and where they lie there."""
    last, found = len(net.levels) - 1, {"quant": "quant_conv", "post_quant": "post_quant_conv"}
    for half, way, count in ("encoder", "down", net.blocks), ("decoder", "up", net.blocks + 1):
        found |= {f"{half}/{ours}": f"{half}.{theirs}" for ours, theirs in TOP.items()}
        for level, (size, _) in enumerate(net.levels):
            there = f"{half}.{way}_blocks.{level if way == 'down' else last - level}"
            found |= {f"{half}/{way}_{size}_{i}": f"{there}.resnets.{i}" for i in range(count)}
            found[f"{half}/{way}_{size}_resample"] = f"{there}.{way}samplers.0.conv"
    return found


TOP = {name: diffusers.TOP[name] for name in ("conv_in", "mid_0", "mid_attention", "mid_1", "norm_out", "conv_out")}
LAYOUT = Layout(blocks, diffusers.LAYERS)


def to_vae(tensors: Tensors, config: Mapping) -> tuple[VAE, dict]:
    """(network, parameters) of a state dict and its config.json.

    Raises ValueError naming tensors that are missing, surplus or of another shape.
    """
    net = VAE(**fields(config))
    tensors = {diffusers.renamed(name): value for name, value in tensors.items()}
    x = jnp.zeros((1, net.size, net.size, net.out_channels))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    places, params, used = blocks(net), {}, set()
    for path, leaf in flatten_dict(shapes).items():
        inner = path if path[0] in places else (f"{path[0]}/{path[1]}", *path[2:])
        name = their_name(LAYOUT, places, inner)
        if name not in tensors:
            raise ValueError(f"the file lacks {name}, which a network of these settings has: check the settings")
        params[path] = ours(tensors[name], leaf.shape, path[-1], name)
        used.add(name)
    if surplus := sorted(tensors.keys() - used):
        raise ValueError(f"the file has tensors that a network of these settings lacks: {listed(surplus)}")
    return net, unflatten_dict(params)


def config_of(folder) -> tuple[epath.Path, dict]:
    """(the folder with the weights, its config.json) of an AutoencoderKL's folder, or a pipeline's with it in vae/."""
    root = epath.Path(folder)
    root = root / "vae" if (root / "vae").exists() else root
    if not (root / "config.json").exists():
        raise ValueError(f"{root} has no config.json: name a folder that diffusers wrote")
    config = json.loads((root / "config.json").read_text())
    if config.get("_class_name") != "AutoencoderKL":
        raise ValueError(f"{root} holds a {config.get('_class_name')}, and only AutoencoderKL is read")
    return root, config


def network(folder) -> VAE:
    """The network alone, without reading a weight."""
    return VAE(**fields(config_of(folder)[1]))


def load(folder) -> tuple[VAE, dict]:
    """(network, parameters) of a folder."""
    root, config = config_of(folder)
    return to_vae(diffusers.weights(root), config)
