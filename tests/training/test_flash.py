"""Attention by a TPU's kernel, over a mesh: dot_product_attention's numbers. Here it runs as ordinary operations."""

import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, cifar10_vae
from experiment import abstract_batch, build
from models.layers import heavy
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
    monkeypatch.setattr(flash, "LARGEST", 256)
    attend, given = flash.on_tpu(sharding.data_mesh(), interpret=True), arrays(8, 384, 640)
    for own, other in zip(results(attend, *given), results(jax.nn.dot_product_attention, *given), strict=True):
        np.testing.assert_allclose(own, other, atol=4e-6 * float(jnp.abs(other).max()))


SHAPES = [(8, 256, 256, 16, True), (16, 1024, 1152, 64, True), (1, 256, 256, 16, False), (12, 256, 256, 16, False),
          (8, 64, 256, 16, False), (8, 256, 77, 16, False), (8, 324, 324, 16, False), (8, 1024, 1024, 512, True),
          (8, 256, 256, 768, False)]  # fmt: skip


@pytest.mark.parametrize("images, pixels, keys, width, fits", SHAPES)
def test_shapes_that_the_kernel_is_not_for_are_dot_product_attentions(images, pixels, keys, width, fits):
    given = [jax.ShapeDtypeStruct((images, n, 2, width), jnp.bfloat16) for n in (pixels, keys, keys)]
    assert kernels(flash.on_tpu(sharding.data_mesh()), *given) == fits


@pytest.mark.parametrize("tokens, size", [(128, 128), (1024, 1024), (1152, 1152), (2304, 1152), (4096, 1024)])
def test_blocks_of_queries_divide_them(tokens, size):
    assert flash.row_block(tokens, flash.LARGEST) == size


BLOCKS = [(77, 128, 1152), (1025, 1152, 1152), (1357, 768, 1152), (4096, 1024, 1152), (4224, 896, 1152)]
BLOCKS += [(600, 512, 512)]


@pytest.mark.parametrize("tokens, size, largest", BLOCKS)
def test_blocks_of_keys_add_little_to_them_and_are_not_small(tokens, size, largest):
    assert flash.key_block(tokens, largest) == size


def test_other_devices_and_shapes_alone_take_dot_product_attention():
    sizes = MESHES[1]
    assert jax.devices()[0].platform == "cpu"
    for mesh in (sharding.make_mesh(sizes), sharding.abstract_mesh(sizes, 8)):
        assert flash.attention(mesh) is jax.nn.dot_product_attention


HEADS = [(256, 256, 64, True), (256, 384, 128, True), (256, 256, 160, False), (256, 256, 20, False),
         (81, 81, 64, False), (64, 77, 64, False)]  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pixels, keys, width, fits", HEADS)
def test_a_gpus_kernel_is_given_what_jax_says_that_it_takes(pixels, keys, width, fits, masked, monkeypatch):
    """JAX's own checks of shapes and types, at the newest cuDNN; without a GPU no more can be said."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91300)
    given = [jax.ShapeDtypeStruct((8, n, 2, width), jnp.bfloat16) for n in (pixels, keys, keys)]
    mask = jnp.ones((8, 1, 1, keys), bool) if masked else None

    attend = flash.on_gpu(sharding.data_mesh())

    def gradient(query, key, value):
        return jax.grad(lambda query: attend(query, key, value, mask=mask).sum().astype(jnp.float32))(query)

    assert ("dot_product_attention_bwd" in str(jax.make_jaxpr(gradient)(*given))) == fits


FIELDS = {
    "unet": dict(channels=16, multipliers=(1,), blocks=1, attention=(16,), groups=4),
    "efficient_unet": dict(channels=16, multipliers=(2,), level_blocks=(1,), attention=(16,), groups=4, num_heads=2),
    "song_unet": dict(channels=16, multipliers=(1,), blocks=1, attention=(16,)),
    "edm2_unet": dict(channels=16, multipliers=(1,), blocks=1, attention=(16,), head_channels=8),
    "dit": dict(channels=16, blocks=1, patch=1, num_heads=2),
    "u_vit": dict(channels=16, multipliers=(1,), blocks=1, middle=1, num_heads=2, groups=4),
}


def test_remat_of_dots_keeps_what_the_kernel_gave():
    """Its output and its sums, by the name that it gives them: the backward pass then need not run the forward's."""
    attend, given = flash.on_tpu(sharding.data_mesh()), arrays(8, 256, 256)[:3]
    program = str(jax.make_jaxpr(jax.grad(lambda *given: attend(*given).sum()))(*given))
    assert re.findall(r"\bname\[name=(\w+)\]", program) == ["attended"] * 2
    naming = SimpleNamespace(name="name")
    assert heavy(naming, name="attended") and not heavy(naming, name="doubled")


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
