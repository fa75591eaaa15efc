"""Attention by a kernel that never writes its logits to memory, where the mesh's devices have one.

A kernel is one program for one device, and the compiler does not split it. So it is told the mesh here, outside of the
networks, and works on each device's own images and heads.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from training import sharding

LANES = 128  # tokens come to a TPU's kernel in multiples of this
FEWEST = 256  # tokens; with fewer there is little to gain
LARGEST = 1152  # tokens of a block: 32x32 pixels and 128 of a text


def attention(mesh) -> Callable:
    """(query [b l h d], key [b m h d], value [b m h d], mask=None) -> [b l h d]: jax.nn.dot_product_attention's work.

    mask: [b 1 1 m] bool, with a key for every query. On a TPU JAX's splash kernel, on a GPU cuDNN's, and on other
    devices, or none (a mesh of shapes alone), dot_product_attention, so that what a pod trained samples on a laptop.
    So do shapes that a kernel does not work on, or is not worth: see `fits_tpu` and `fits_gpu`.
    """
    platform = sharding.platform(mesh)
    return KERNELS[platform](mesh) if platform in KERNELS else jax.nn.dot_product_attention


def fits_tpu(mesh, query, key) -> bool:
    """A batch that divides over the mesh, and 256 tokens or more, those of the query a multiple of 128."""
    length = query.shape[1]
    whole = len(query) % sharding.batch_parts(mesh) == 0 and length % LANES == 0
    return whole and min(length, key.shape[1]) >= FEWEST


def fits_gpu(query, key) -> bool:
    """Heads whose width is a multiple of 8, up to 128."""
    return query.shape[-1] % 8 == 0 and query.shape[-1] <= 128


def on_gpu(mesh) -> Callable:
    def attend(query, key, value, mask=None):
        kernel = "cudnn" if fits_gpu(query, key) else "xla"
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=kernel)

    return attend


def on_tpu(mesh, interpret: bool = False) -> Callable:
    """interpret: the kernel as ordinary operations, on any device, for tests."""

    def attend(query, key, value, mask=None):
        if not fits_tpu(mesh, query, key):
            return jax.nn.dot_product_attention(query, key, value, mask=mask)
        if mask is None:
            mask = jnp.ones((len(key), 1, 1, key.shape[1]), bool)
        heads = "tensor" if query.shape[2] % mesh.shape["tensor"] == 0 else None
        split, batch = P(*sharding.BATCH, None, heads, None), P(*sharding.BATCH, None)
        local = jax.shard_map(
            partial(one_device, interpret),
            mesh=mesh,
            in_specs=(split, split, split, batch),
            out_specs=split,
            check_vma=False,
        )
        return local(query, key, value, mask[:, 0, 0])

    return attend


KERNELS = {"tpu": on_tpu, "gpu": on_gpu}


def one_device(interpret: bool, query, key, value, mask):
    """attention's arrays, and its mask as [b m], on the device that holds them all.

    Keys are filled up to a multiple of 128 with some that are masked. Tokens are last in memory: a head is narrower
    than the 128 lanes that the last axis takes up in any case. One kernel is the whole backward pass.
    """
    # Imported where it is used: Pallas takes as long as all of Flax, and only a TPU wants it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    more = -key.shape[1] % LANES
    key, value = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (key, value))
    mask = jnp.pad(mask, ((0, 0), (0, more)))
    rows, columns = block(query.shape[1]), block(key.shape[1])
    last = splash.QKVLayout.SEQ_MINOR
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.FullMask((query.shape[1], key.shape[1]))] * query.shape[2]),
        block_sizes=splash.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            use_fused_bwd_kernel=True,
            q_layout=last,
            k_layout=last,
            v_layout=last,
        ),
        residual_checkpoint_name="attended",
        interpret=interpret,
    )
    query = (query * query.shape[-1] ** -0.5).astype(query.dtype)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    ids = splash.SegmentIds(q=jnp.ones((len(query), query.shape[2]), jnp.int32), kv=mask.astype(jnp.int32))
    return jax.vmap(kernel)(query, key, value, ids).swapaxes(1, 2)


def block(tokens: int) -> int:
    """The largest part of so many tokens, a multiple of 128, that is a multiple of 128 itself and not above LARGEST."""
    return max(size for size in range(LANES, min(tokens, LARGEST) + 1, LANES) if tokens % size == 0)
