"""Makes golden/t5.npz, what transformers' T5EncoderModel gives on small_t5's weights, and prints how far ours is.

pip install -r requirements.txt torch==2.13.0 transformers==5.23.0
PYTHONPATH=.:tests/models python tests/models/make_golden_t5.py
"""

import pathlib
import tempfile

import jax
import numpy as np
import small_t5
import torch
from transformers import T5Config, T5EncoderModel

from models.text import TEXT_ENCODERS

GOLDEN = pathlib.Path(__file__).parent / "golden"


def theirs(name: str) -> np.ndarray:
    size = small_t5.CASES[name][0]
    model = T5EncoderModel(T5Config(**small_t5.config(size))).eval()
    found = {key: torch.from_numpy(value) for key, value in small_t5.weights(size).items()}
    lacking, surplus = model.load_state_dict(found, strict=False)
    assert not surplus and set(lacking) <= {"encoder.embed_tokens.weight"}, (lacking, surplus)
    tokens, mask = small_t5.inputs(name)
    with torch.no_grad():
        out = model(torch.from_numpy(tokens), torch.from_numpy(mask).long()).last_hidden_state.numpy()
    return np.where(mask[..., None], out, 0)


def ours(name: str) -> np.ndarray:
    size = small_t5.CASES[name][0]
    with tempfile.TemporaryDirectory() as folder:
        path = small_t5.write_folder(pathlib.Path(folder), size, small_t5.weights(size))
        encoder = TEXT_ENCODERS["t5"](path=path, length=1, dtype="float32")
        return np.asarray(jax.jit(encoder.encode)(encoder.load(), *small_t5.inputs(name)))


def main() -> None:
    golden = {name: theirs(name) for name in small_t5.CASES}
    for name, value in golden.items():
        print(f"{name}: {np.abs(value - ours(name)).max():.1e}, deviation {value.std():.2f}")
    np.savez_compressed(GOLDEN / "t5.npz", **golden)


if __name__ == "__main__":
    main()
