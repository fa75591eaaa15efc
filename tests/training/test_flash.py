"""Attention by a TPU's kernel, over a mesh: dot_product_attention's numbers. Here it runs as ordinary operations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, cifar10_vae
from experiment import abstract_batch, build
from training import flash, sharding

MESHES = ({"data": 8, "fsdp": 1, "tensor": 1}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 4, "tensor": 2})


@pytest.fixture(autouse=True, scope="module")
def exact():
    """Matrix products in whole float32, which is what these numbers are compared in."""
    with jax.default_matmul_precision("float32"):
        yield


def arrays(images, pixels, keys, heads=2, width=16):
    normal = partial(jax.random.normal, shape=(images, pixels, heads, width))
    query, cotangent = normal(jax.random.key(0)), normal(jax.random.key(1))
    key, value = (jax.random.normal(jax.random.key(i), (images, keys, heads, width)) for i in (2, 3))
    return query, key, value, cotangent


def results(attend, query, key, value, cotangent, mask=None):
    """[output, and the gradients of query, key and value]"""

    def run(query, key, value):
        out, pull = jax.vjp(partial(attend, mask=mask), query, key, value)
        return out, *pull(cotangent)

    return jax.jit(run)(query, key, value)


def kernels(f, *args) -> bool:
    """Whether a function, jitted or to be, has the kernel in it."""
    program = f if hasattr(f, "trace") else jax.jit(f)
    return "pallas_call" in str(program.trace(*args).jaxpr)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("keys", [256, 300])
def test_output_and_gradients_are_those_of_dot_product_attention(sizes, keys):
    attend = flash.on_tpu(sharding.make_mesh(sizes), interpret=True)
    given = arrays(8, 256, keys)
    lengths = jnp.array([keys, keys - 10, 3, 200, 1, keys, 64, 130])
    mask = (jnp.arange(keys) < lengths[:, None])[:, None, None]
    assert kernels(attend, *given[:3])
    for own, other in zip(
        results(attend, *given, mask), results(jax.nn.dot_product_attention, *given, mask), strict=True
    ):
        np.testing.assert_allclose(own, other, atol=2e-6 * float(jnp.abs(other).max()))


def test_without_a_mask_every_key_counts():
    attend, given = flash.on_tpu(sharding.data_mesh(), interpret=True), arrays(8, 256, 384)
    for own, other in zip(results(attend, *given), results(jax.nn.dot_product_attention, *given), strict=True):
        np.testing.assert_allclose(own, other, atol=2e-6 * float(jnp.abs(other).max()))


def test_many_blocks_add_up(monkeypatch):
    monkeypatch.setattr(flash, "LARGEST", 128)
    attend, given = flash.on_tpu(sharding.data_mesh(), interpret=True), arrays(8, 384, 640)
    for own, other in zip(results(attend, *given), results(jax.nn.dot_product_attention, *given), strict=True):
        np.testing.assert_allclose(own, other, atol=4e-6 * float(jnp.abs(other).max()))


SHAPES = [(8, 256, 256, True), (16, 1024, 1152, True), (1, 256, 256, False), (12, 256, 256, False),
          (8, 64, 256, False), (8, 256, 77, False), (8, 324, 324, False)]  # fmt: skip


@pytest.mark.parametrize("images, pixels, keys, fits", SHAPES)
def test_shapes_that_the_kernel_is_not_for_are_dot_product_attentions(images, pixels, keys, fits):
    given = [jax.ShapeDtypeStruct((images, n, 2, 16), jnp.bfloat16) for n in (pixels, keys, keys)]
    assert kernels(flash.on_tpu(sharding.data_mesh()), *given) == fits


BLOCKS = [(128, 128), (256, 256), (1024, 1024), (1152, 1152), (2304, 1152), (4096, 1024), (4224, 384)]


@pytest.mark.parametrize("tokens, size", BLOCKS)
def test_blocks_divide_the_tokens(tokens, size):
    assert flash.block(tokens) == size


def test_other_devices_and_shapes_alone_take_dot_product_attention():
    sizes = MESHES[1]
    assert jax.devices()[0].platform == "cpu"
    for mesh in (sharding.make_mesh(sizes), sharding.abstract_mesh(sizes, 8)):
        assert flash.attention(mesh) is jax.nn.dot_product_attention


@pytest.mark.parametrize("width, fits", [(64, True), (128, True), (160, False), (20, False)])
def test_a_gpus_kernel_takes_narrow_heads(width, fits):
    query = jax.ShapeDtypeStruct((8, 256, 2, width), jnp.bfloat16)
    assert flash.fits_gpu(query, query) == fits


FIELDS = {
    "unet": dict(channels=16, multipliers=(1,), blocks=1, attention=(16,), groups=4),
    "efficient_unet": dict(channels=16, multipliers=(2,), level_blocks=(1,), attention=(16,), groups=4, num_heads=2),
    "song_unet": dict(channels=16, multipliers=(1,), blocks=1, attention=(16,)),
    "edm2_unet": dict(channels=16, multipliers=(1,), blocks=1, attention=(16,), head_channels=8),
    "dit": dict(channels=16, blocks=1, patch=1, num_heads=2),
    "u_vit": dict(channels=16, multipliers=(1,), blocks=1, middle=1, num_heads=2, groups=4),
}


def config(name):
    made = base.get_config()
    side = 32 if name == "efficient_unet" else 16
    made.data.shape, made.train.batch_size = (side, side, 1), 16
    made.model.update(name=name, flash=True, dtype="bfloat16", **FIELDS[name])
    return made


@pytest.mark.parametrize("remat", ["none", "blocks"])
@pytest.mark.parametrize("name", FIELDS)
def test_every_network_of_diffusion_takes_it(name, remat, monkeypatch):
    monkeypatch.setitem(flash.KERNELS, "cpu", flash.on_tpu)
    made = config(name)
    made.model.remat = remat
    built = build(made, sharding.make_mesh(MESHES[1]))
    batch = abstract_batch(made, built.mesh, 16)
    assert kernels(built.train_step, built.abstract, built.abstract_frozen, batch)
    monkeypatch.undo()
    built = build(made, sharding.make_mesh(MESHES[1]))
    assert not kernels(built.train_step, built.abstract, built.abstract_frozen, batch)


def test_a_step_with_it_is_the_step_without(monkeypatch):
    """The whole of it, sharded, through FSDP's second gathering, in what the network is computed in."""
    monkeypatch.setitem(flash.KERNELS, "cpu", partial(flash.on_tpu, interpret=True))
    sums = []
    for flashing in (True, False):
        made = config("unet")
        made.model.flash = flashing
        built = build(made, sharding.make_mesh(MESHES[1]))
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_batch(made, built.mesh, 16))
        sums.append(built.train_step(built.init(), built.abstract_frozen, batch)[1])
    for metric in ("loss", "gradient_norm"):
        np.testing.assert_allclose(sums[0][metric][0], sums[1][metric][0], rtol=1e-3)


def test_it_wants_half_precision_and_a_network_with_attention():
    made = config("unet")
    made.model.dtype = "float32"
    with pytest.raises(ValueError, match="set model.dtype=bfloat16"):
        build(made)
    made = cifar10_vae.get_config()
    made.model.flash = True
    with pytest.raises(ValueError, match="model.flash=True is not taken by model.name=vae"):
        build(made)


def test_a_likelihoods_directions_go_through_dot_product_attention(monkeypatch):
    """Forward-mode derivatives, which the kernel has not."""
    monkeypatch.setitem(flash.KERNELS, "cpu", flash.on_tpu)
    built = build(config("unet"), sharding.data_mesh(jax.devices()[:1]))
    x, t = jnp.zeros((1, 16, 16, 1)), jnp.full((1,), 0.5)

    def along(params, x):
        return jax.jvp(lambda x: built.denoiser(params, None, {})(x, t).x0, (x,), (x,))[1]

    assert not kernels(along, built.abstract.params, x)
