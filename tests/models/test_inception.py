"""The FID network: torch-fidelity's outputs on random weights, TensorFlow 1's resize, and only the published file."""

import pathlib

import jax
import numpy as np
import published
import pytest

from models import inception
from models.inception import apply, fold, load, shapes, tf1_bilinear

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "inception.npz")
STRIDE = 13


@pytest.fixture(scope="module")
def weights():
    return published.weights(shapes())


@pytest.fixture(scope="module")
def outputs(weights):
    """Of two images of 32 x 32."""
    run = jax.jit(apply, compiler_options={"xla_backend_optimization_level": 0})
    return run(fold(weights), published.images((32, 32)))


@pytest.mark.parametrize("name", ["pool", "logits", "spatial"])
def test_outputs_are_torch_fidelitys(outputs, name):
    np.testing.assert_allclose(getattr(outputs, name), GOLDEN[name], atol=1e-4)


@pytest.mark.parametrize("size", published.SIZES)
def test_the_resize_is_torch_fidelitys(size):
    x = jax.jit(tf1_bilinear, static_argnums=1)(published.images(size).astype(np.float32), 299)
    theirs = GOLDEN["resized_{}_{}".format(*size)]
    np.testing.assert_allclose(x[0, ::STRIDE, ::STRIDE], theirs, atol=1e-4)


@pytest.mark.parametrize("length", [5, 64, 299, 512])
def test_the_resize_reads_output_pixel_i_at_position_i_times_length_over_size(length):
    ramp = np.broadcast_to(np.arange(length, dtype=np.float32), (1, length, length))[..., None]
    expected = (np.arange(299) * (length / 299)).clip(max=length - 1)
    for x in ramp, ramp.swapaxes(1, 2):
        found = np.asarray(tf1_bilinear(x, 299))[0, :, :, 0]
        np.testing.assert_allclose(found if x is ramp else found.T, np.tile(expected, (299, 1)), atol=2e-4)


def test_the_network_has_the_published_ports_parameters(weights):
    assert len(shapes()) == 2 * 94 + 1
    assert sum(weights[name].size for name in weights if name.endswith((".conv.weight", "fc.weight"))) == 23_815_520


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("Mixed_6c.branch7x7_2.bn.running_var"), "Mixed_6c.branch7x7_2.bn.running_var is missing"),
        (lambda w: w.pop("fc.weight"), "fc.weight is missing"),
        (lambda w: w.update({"fc.weight": np.zeros((1000, 2048))}), r"fc.kernel is \(2048, 1000\), not \(2048, 1008\)"),
    ],
)
def test_other_weights_are_refused_in_one_line(weights, change, message):
    weights = dict(weights)
    change(weights)
    with pytest.raises(ValueError, match=f"^these are not the weights of {inception.FILE}: {message}$"):
        fold(weights)


def test_a_file_of_the_published_name_with_other_content_is_refused(tmp_path):
    path = tmp_path / inception.FILE
    path.write_bytes(b"not the weights")
    with pytest.raises(ValueError, match=rf"^\S+ has sha256 \w+, not {inception.SHA256}: .*$"):
        load(path)
    assert inception.SHA256[:8] in inception.FILE
