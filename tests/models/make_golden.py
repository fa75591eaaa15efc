"""Makes golden/ with torch and torch-fidelity, and prints how far this project's network is from theirs.

    pip install -r requirements.txt torch==2.13.0 torch-fidelity==0.4.0
    PYTHONPATH=. python tests/models/make_golden.py

zip.pt, stream.pt   tensors of several types, as torch writes them in its two layouts
inception.npz       resized pixels and the network's outputs, on random weights in the published layout
"""

import os
import pathlib
import tempfile

import jax
import numpy as np
import published
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from models import inception, torch_files

GOLDEN = pathlib.Path(__file__).parent / "golden"
STRIDE = 13  # of the resized pixels that are kept


def make_torch_files() -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8
    tensors = {
        "plain": base,
        "transposed": base.T,  # the same storage
        "slice": base[1:, 2],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "count": torch.tensor(7),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[0] * 2),
    }
    saved = {"step": 3, "state": torch.nn.Module().state_dict() | tensors}
    torch.save(saved, GOLDEN / "zip.pt")
    torch.save(saved, GOLDEN / "stream.pt", _use_new_zipfile_serialization=False)


def their_resize(images: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False).permute(0, 2, 3, 1).numpy()


def their_outputs(path: str, images: np.ndarray) -> dict[str, np.ndarray]:
    network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], path)
    found = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, out: found.append(out))
    pool, logits = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    spatial = found[0][:, :7].permute(0, 2, 3, 1).reshape(len(images), -1)
    return {"pool": pool.numpy(), "logits": logits.numpy(), "spatial": spatial.numpy()}


def main() -> None:
    make_torch_files()
    weights, golden = published.weights(inception.shapes()), {}
    for size in published.SIZES:
        images = published.images(size)
        theirs, ours = their_resize(images), jax.jit(inception.tf1_bilinear, static_argnums=1)(images.astype("f4"), 299)
        print(f"resize {size}: {np.abs(theirs - ours).max():.1e} of 255")
        golden["resized_{}_{}".format(*size)] = theirs[0, ::STRIDE, ::STRIDE]
    path = os.path.join(tempfile.mkdtemp(), "weights.pth")
    for layout, zipped in ("stream", False), ("zip", True):
        torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, path, _use_new_zipfile_serialization=zipped)
        params = inception.fold(torch_files.read(path))
        for size in published.SIZES:
            theirs = their_outputs(path, published.images(size))
            ours = jax.jit(inception.apply)(params, published.images(size))
            for name, value in theirs.items():
                gap, scale = np.abs(value - getattr(ours, name)).max(), value.std()
                print(f"{layout} {size} {name}: {gap:.1e}, deviation {scale:.2f}")
                if size == (32, 32):
                    golden[name] = value
    np.savez_compressed(GOLDEN / "inception.npz", **golden)


if __name__ == "__main__":
    main()
