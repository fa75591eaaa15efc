"""Small T5 encoders in the published layout, on random weights: NumPy alone, the same everywhere."""

import json

import numpy as np

from models import safetensors
from models.t5 import Size

# name -> (size, examples, tokens a row): an inner width that is not d, more layers, and rows past the last bucket
CASES = {
    "narrow": (Size(24, 40, 3, 16, 1, 50), 2, 5),
    "deep": (Size(32, 48, 4, 8, 5, 60), 3, 40),
    "long": (Size(16, 24, 2, 8, 2, 40), 2, 150),
}


def config(size: Size) -> dict:
    """What config.json holds."""
    return {
        "model_type": "t5",
        "d_model": size.width,
        "d_ff": size.hidden,
        "num_heads": size.heads,
        "d_kv": size.head_width,
        "num_layers": size.layers,
        "vocab_size": size.vocabulary,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": True,
    }


def weights(size: Size, seed: int = 0) -> dict[str, np.ndarray]:
    """float32 tensors by their published names, large enough for attention to choose."""
    random = np.random.RandomState(seed)

    def matrix(*shape):
        return (random.uniform(-1.5, 1.5, shape) / shape[-1] ** 0.5).astype(np.float32)

    def scale():
        return random.uniform(0.5, 1.5, size.width).astype(np.float32)

    inner, found = size.heads * size.head_width, {}
    found["shared.weight"] = random.uniform(-2, 2, (size.vocabulary, size.width)).astype(np.float32)
    for i in range(size.layers):
        attention, feed = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        for name in "qkv":
            found[f"{attention}.SelfAttention.{name}.weight"] = matrix(inner, size.width)
        found[f"{attention}.SelfAttention.o.weight"] = matrix(size.width, inner)
        if i == 0:
            name = f"{attention}.SelfAttention.relative_attention_bias.weight"
            found[name] = random.uniform(-2, 2, (32, size.heads)).astype(np.float32)
        found[f"{attention}.layer_norm.weight"] = scale()
        for name in ("wi_0", "wi_1"):
            found[f"{feed}.DenseReluDense.{name}.weight"] = matrix(size.hidden, size.width)
        found[f"{feed}.DenseReluDense.wo.weight"] = matrix(size.width, size.hidden)
        found[f"{feed}.layer_norm.weight"] = scale()
    found["encoder.final_layer_norm.weight"] = scale()
    return found


def inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    """tokens int32 [b l] and mask bool [b l] of a case: rows of several lengths, the first one full."""
    size, rows, length = CASES[name]
    random = np.random.RandomState(len(name))
    lengths = [length, *random.randint(1, length, rows - 1)]
    mask = np.arange(length) < np.array(lengths)[:, None]
    return np.where(mask, random.randint(2, size.vocabulary, (rows, length)), 0).astype(np.int32), mask


def write_folder(folder, size: Size, found: dict[str, np.ndarray], files: int = 1) -> str:
    """A Hugging Face folder, of one file or of several and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(size)))
    if files == 1:
        safetensors.write(str(folder / "model.safetensors"), found)
        return str(folder)
    places = {name: f"model-{i % files + 1:05}-of-{files:05}.safetensors" for i, name in enumerate(found)}
    for file in set(places.values()):
        safetensors.write(str(folder / file), {name: found[name] for name in found if places[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return str(folder)
