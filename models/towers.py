"""CLIP's two towers and DINOv2, for inference: what distances and scores beside Inception's are made of.

    vision = load_vision("dinov2-large")              # a Hugging Face folder: config.json, safetensors, preprocessor
    features = vision.apply(vision.params, images)    # uint8 [b s s 3], s = vision.side -> .pool [b d]

Radford et al. 2021 (https://arxiv.org/abs/2103.00020), Oquab et al. 2023 (https://arxiv.org/abs/2304.07193). Both are
transformers with a norm before each branch (Dosovitskiy et al. 2020); attention is causal in CLIP's text alone.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models import hf_weights
from models.hf_weights import Piece

HIGHEST = "highest"  # an accelerator's default would be seen in the third digit of a feature


def quick_gelu(x):
    return x * nn.sigmoid(1.702 * x)


def exact_gelu(x):
    return nn.gelu(x, approximate=False)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


class Size(NamedTuple):
    """Of a transformer, and what sets its kind apart."""

    width: int
    layers: int
    heads: int
    hidden: int
    activation: str
    norm_eps: float
    scaled: bool = False  # DINOv2: a learned scale on each branch
    causal: bool = False


class Layer(nn.Module):
    size: Size

    @nn.compact
    def __call__(self, x):
        size = self.size
        x = x + self._scale("scale_1", self._attend(norm("norm_1", size, x)))
        h = dense("mlp_1", norm("norm_2", size, x), size.hidden)
        h = dense("mlp_2", ACTIVATIONS[size.activation](h), size.width)
        return x + self._scale("scale_2", h)

    @nn.nowrap
    def _attend(self, x):
        b, length, d = x.shape
        split = (b, length, self.size.heads, d // self.size.heads)
        q, k, v = (dense(name, x, d).reshape(split) for name in ("query", "key", "value"))
        logits = jnp.einsum("blhc,bmhc->bhlm", q, k, precision=HIGHEST) / split[-1] ** 0.5
        if self.size.causal:
            logits = jnp.where(np.tri(length, dtype=bool), logits, -jnp.inf)
        y = jnp.einsum("bhlm,bmhc->blhc", jax.nn.softmax(logits), v, precision=HIGHEST)
        return dense("out", y.reshape(b, length, d), d)

    @nn.nowrap
    def _scale(self, name, x):
        return x * self.param(name, nn.initializers.ones, (x.shape[-1],)) if self.size.scaled else x


def norm(name, size, x):
    return nn.LayerNorm(epsilon=size.norm_eps, use_fast_variance=False, name=name)(x)


def dense(name, x, features, bias=True):
    return nn.Dense(features, use_bias=bias, precision=HIGHEST, name=name)(x)


class Vision(nn.Module):
    """Normalised images [b s s 3] -> [b d]: the class token after the last norm, projected where projection > 0.

    grid: patches a side that the positions were learned at; other sides interpolate them, as DINOv2 does.
    """

    size: Size
    patch: int
    grid: int
    projection: int = 0  # CLIP

    @nn.compact
    def __call__(self, x):
        size, clip = self.size, bool(self.projection)
        b, h, w, c = x.shape
        p = self.patch
        patches = x.reshape(b, h // p, p, w // p, p, c)
        kernel = self.param("patch", nn.initializers.normal(0.02), (p, p, c, size.width))  # [w h c d], torch's reversed
        x = jnp.einsum("bihjwc,whcd->bijd", patches, kernel, precision=HIGHEST).reshape(b, -1, size.width)
        if not clip:
            x = x + self.param("patch_bias", nn.initializers.zeros, (size.width,))
        first = self.param("class", nn.initializers.zeros, (size.width,) if clip else (1, 1, size.width))
        x = jnp.concatenate([jnp.broadcast_to(first.reshape(1, 1, -1), (b, 1, size.width)), x], axis=1)
        count = 1 + self.grid**2
        place = self.param("positions", nn.initializers.zeros, (count, size.width) if clip else (1, count, size.width))
        x = x + positions_at(place.reshape(count, -1), h // p, w // p)
        x = norm("norm_in", size, x) if clip else x
        for i in range(size.layers):
            x = Layer(size, name=f"layer_{i}")(x)
        x = norm("norm_out", size, x[:, 0])
        return dense("projection", x, self.projection, bias=False) if clip else x


class Text(nn.Module):
    """Tokens int32 [b l], each row with the end token `end` in it -> [b d], CLIP's embedding of the text."""

    size: Size
    vocabulary: int
    length: int
    end: int
    projection: int

    @nn.compact
    def __call__(self, tokens):
        size = self.size
        place = self.param("positions", nn.initializers.zeros, (self.length, size.width))
        x = nn.Embed(self.vocabulary, size.width, name="tokens")(tokens) + place[: tokens.shape[1]]
        for i in range(size.layers):
            x = Layer(size, name=f"layer_{i}")(x)
        x = norm("norm_out", size, x)
        # The end is the highest token in the published vocabulary, which older configs call number 2.
        at = jnp.argmax(tokens if self.end == 2 else tokens == self.end, axis=1)
        return dense("projection", x[jnp.arange(len(x)), at], self.projection, bias=False)


def positions_at(positions, rows: int, columns: int):
    """Positions [1 + n^2, d] for a grid of rows x columns patches; the class token's comes first and stays."""
    n = round((len(positions) - 1) ** 0.5)
    if (rows, columns) == (n, n):
        return positions
    grid = positions[1:].reshape(n, n, -1)
    down, across = (bicubic(n, m).astype(np.float32) for m in (rows, columns))
    grid = jnp.einsum("rn,nmd,cm->rcd", down, grid, across, precision=HIGHEST)
    return jnp.concatenate([positions[:1], grid.reshape(rows * columns, -1)])


def bicubic(n: int, m: int, a: float = -0.75) -> np.ndarray:
    """[m n]: torch's bicubic resize of n points to m, half-pixel centres, edges repeated, no antialiasing."""
    at = (np.arange(m) + 0.5) * n / m - 0.5
    low = np.floor(at).astype(int)
    weights = np.zeros((m, n))
    for offset in (-1, 0, 1, 2):
        d = np.abs(at - (low + offset))
        near = ((a + 2) * d - (a + 3)) * d**2 + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        np.add.at(weights, (np.arange(m), np.clip(low + offset, 0, n - 1)), np.where(d <= 1, near, far))
    return weights


LAYER = {
    "norm_1": "layer_norm1",
    "norm_2": "layer_norm2",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "mlp_1": "mlp.fc1",
    "mlp_2": "mlp.fc2",
}
DINO_LAYER = {
    "norm_1": "norm1",
    "norm_2": "norm2",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "scale_1": "layer_scale1.lambda1",
    "scale_2": "layer_scale2.lambda1",
    "mlp_1": "mlp.fc1",
    "mlp_2": "mlp.fc2",
}
CLIP_VISION = {
    "patch": "vision_model.embeddings.patch_embedding.weight",
    "class": "vision_model.embeddings.class_embedding",
    "positions": "vision_model.embeddings.position_embedding.weight",
    "norm_in": "vision_model.pre_layrnorm",  # spelled so
    "norm_out": "vision_model.post_layernorm",
    "projection": "visual_projection",
}
CLIP_TEXT = {
    "tokens": "text_model.embeddings.token_embedding",
    "positions": "text_model.embeddings.position_embedding.weight",
    "norm_out": "text_model.final_layer_norm",
    "projection": "text_projection",
}
DINO = {
    "patch": "embeddings.patch_embeddings.projection.weight",
    "patch_bias": "embeddings.patch_embeddings.projection.bias",
    "class": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "norm_out": "layernorm",
}


def pieces(shapes: dict, top: dict[str, str], layer: dict[str, str], layers: str) -> dict[str, Piece]:
    """Our parameter -> the tensor that it is; layers is the prefix of layer i there, with {} for i."""

    def piece(path):
        first, *rest = path.split("/")
        i = first.removeprefix("layer_")
        name = f"{layers.format(i)}.{layer[rest.pop(0)]}" if i != first else top[first]
        leaf = rest[0] if rest else ""
        ending = {"": "", "bias": ".bias"}.get(leaf, ".weight")
        return Piece(name + ending, transposed=leaf == "kernel" or first == "patch")

    return {path: piece(path) for path in shapes}


class LoadedText(NamedTuple):
    """apply(params, tokens int32 [b length]) -> float32 [b d]."""

    apply: Callable
    params: dict
    length: int


class LoadedVision(NamedTuple):
    """apply(params, uint8 [b side side 3]) -> Pool; images are brought to that side before, by Pillow's bicubic."""

    kind: str  # 'dinov2' or 'clip'
    apply: Callable
    params: dict
    hash: str
    side: int


class Pool(NamedTuple):
    pool: jax.Array  # float32 [b d]


def load_vision(folder: str) -> LoadedVision:
    """DINOv2 or CLIP's image tower. Raises ValueError in one line for another folder."""
    config = hf_weights.read_config(folder)
    kind = config.get("model_type")
    if kind not in VISION:
        raise ValueError(f"{folder} is of model_type {kind!r}; the networks that judge images are {', '.join(VISION)}")
    module, names, layer, layers = VISION[kind](config)
    mean, std, side = preprocessing(folder)
    if side % module.patch:
        raise ValueError(f"{folder}: images of {side} are no multiple of the patch, {module.patch}")
    params = read(folder, module, jnp.zeros((1, side, side, 3)), names, layer, layers)

    def apply(params, images):
        x = (images.astype(jnp.float32) / 255 - mean) / std
        return Pool(module.apply({"params": params}, x))

    return LoadedVision(kind, apply, params, digest(folder), side)


def load_text(folder: str) -> LoadedText:
    """CLIP's text tower. Raises ValueError in one line for another folder."""
    config = hf_weights.read_config(folder)
    if config.get("model_type") != "clip":
        raise ValueError(f"{folder} is of model_type {config.get('model_type')!r}: a CLIP score needs clip")
    text = config["text_config"]
    module = Text(
        clip_size(text, causal=True),
        text.get("vocab_size", 49408),
        text.get("max_position_embeddings", 77),
        text.get("eos_token_id", 49407),
        config.get("projection_dim", 512),
    )
    tokens = jnp.zeros((1, module.length), jnp.int32)
    params = read(folder, module, tokens, CLIP_TEXT, LAYER, "text_model.encoder.layers.{}")
    return LoadedText(lambda params, tokens: module.apply({"params": params}, tokens), params, module.length)


def read(folder: str, module: nn.Module, example, names: dict, layer: dict, layers: str) -> dict:
    abstract = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    shapes = {"/".join(part.key for part in path): None for path, _ in jax.tree.leaves_with_path(abstract)}
    others = ("logit_scale", "text_", "visual_", "vision_", "embeddings.mask_token", "position_ids")
    return hf_weights.load(hf_weights.tensors(folder), pieces(shapes, names, layer, layers), abstract, others=others)


def clip_vision(config: dict) -> tuple:
    vision = config["vision_config"]
    patch = vision.get("patch_size", 32)
    module = Vision(clip_size(vision), patch, vision.get("image_size", 224) // patch, config.get("projection_dim", 512))
    return module, CLIP_VISION, LAYER, "vision_model.encoder.layers.{}"


def dinov2(config: dict) -> tuple:
    if config.get("use_swiglu_ffn"):
        raise ValueError("DINOv2's giant has another kind of MLP (use_swiglu_ffn), which is not here: use large")
    width = config["hidden_size"]
    hidden = int(width * config.get("mlp_ratio", 4))
    activation, eps = config.get("hidden_act", "gelu"), config.get("layer_norm_eps", 1e-6)
    size = Size(width, config["num_hidden_layers"], config["num_attention_heads"], hidden, activation, eps, scaled=True)
    patch = config.get("patch_size", 14)
    return Vision(size, patch, config.get("image_size", 224) // patch), DINO, DINO_LAYER, "encoder.layer.{}"


VISION: dict[str, Callable[[dict], tuple]] = {"clip": clip_vision, "dinov2": dinov2}


def clip_size(config: dict, causal: bool = False) -> Size:
    width, layers, heads, hidden = (
        config[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    )
    activation, eps = config.get("hidden_act", "quick_gelu"), config.get("layer_norm_eps", 1e-5)
    return Size(width, layers, heads, hidden, activation, eps, causal=causal)


def preprocessing(folder: str) -> tuple[np.ndarray, np.ndarray, int]:
    """(mean, standard deviation, side) of preprocessor_config.json; the side is that of the crop."""
    path = Path(folder).expanduser() / "preprocessor_config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing, which says how images are normalised: fetch it with the weights")
    said = json.loads(path.read_text())
    crop = said.get("crop_size", said.get("size", 224))
    side = crop if isinstance(crop, int) else crop.get("height", crop.get("shortest_edge"))
    return np.array(said["image_mean"], np.float32), np.array(said["image_std"], np.float32), side


def digest(folder: str) -> str:
    """sha256 of the folder's safetensors files, by name."""
    found = hashlib.sha256()
    for path in sorted(Path(folder).expanduser().glob("*.safetensors")):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
