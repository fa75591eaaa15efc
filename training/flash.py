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
LARGEST_WIDE = 512  # the same of heads wider than 128, whose blocks would not fit into a v5e's scratch memory
WIDEST = 512  # of a head, for which blocks of 512 fit


def attention(mesh) -> Callable:
    """(query [b l h d], key [b m h d], value [b m h d], mask=None) -> [b l h d]: jax.nn.dot_product_attention's work.

    mask: [b 1 1 m] bool, with a key for every query. On a TPU JAX's splash kernel, on a GPU cuDNN's, and on other
    devices, or none (a mesh of shapes alone), dot_product_attention, so that what a pod trained samples on a laptop.
    Shapes that a kernel does not work on, or is not worth, take it too: see `fits_tpu` and `fits_gpu`. Kernels have no
    forward-mode derivatives (jvp). On a TPU the query is scaled before the product, and rounded to its type.
    """
    platform = sharding.platform(mesh)
    return KERNELS[platform](mesh) if platform in KERNELS else jax.nn.dot_product_attention


def fits_tpu(query, key) -> bool:
    """256 tokens or more, those of the query a multiple of 128, and heads not wider than 512."""
    length = query.shape[1]
    return length % LANES == 0 and min(length, key.shape[1]) >= FEWEST and query.shape[-1] <= WIDEST


def fits_gpu(query, key) -> bool:
    """Heads whose width is a multiple of 8, up to 128, and even numbers of tokens."""
    width = query.shape[-1]
    return width % 8 == 0 and width <= 128 and query.shape[1] % 2 == key.shape[1] % 2 == 0


def on_gpu(mesh) -> Callable:
    return over_devices(mesh, fits_gpu, cudnn)


def on_tpu(mesh, interpret: bool = False) -> Callable:
    """interpret: the kernel as ordinary operations, on any device, for tests."""
    return over_devices(mesh, fits_tpu, partial(splash, interpret))


KERNELS = {"tpu": on_tpu, "gpu": on_gpu}


def over_devices(mesh, fits: Callable, kernel: Callable) -> Callable:
    """Attention by `kernel` on each device's own images and heads, where the shapes fit and the mesh divides the batch.

    kernel: (query, key, value, mask [b m] bool or none) -> [b l h d], on one device.
    """

    def attend(query, key, value, mask=None):
        if len(query) % sharding.batch_parts(mesh) or not fits(query, key):
            return jax.nn.dot_product_attention(query, key, value, mask=mask)
        heads = "tensor" if query.shape[2] % mesh.shape["tensor"] == 0 else None
        split = P(*sharding.BATCH, None, heads, None)
        given, places = (query, key, value), (split, split, split)
        if mask is not None:
            given, places = (*given, mask[:, 0, 0]), (*places, P(*sharding.BATCH, None))
        return jax.shard_map(kernel, mesh=mesh, in_specs=places, out_specs=split, check_vma=False)(*given)

    return attend


def cudnn(query, key, value, mask=None):
    if mask is not None:  # cuDNN wants one for each query
        mask = jnp.broadcast_to(mask[:, None, None], (len(key), 1, query.shape[1], key.shape[1]))
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")


def splash(interpret: bool, query, key, value, mask=None):
    """Keys are filled up to whole blocks with some that are masked.

    Tokens are last in memory: a head is narrower than the 128 lanes that the last axis takes up in any case. One
    kernel is the whole backward pass.
    """
    # Imported where it is used: Pallas takes as long as all of Flax, and only a TPU wants it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    largest = LARGEST if query.shape[-1] <= LANES else LARGEST_WIDE
    rows, columns = row_block(query.shape[1], largest), key_block(key.shape[1], largest)
    mask = jnp.ones(key.shape[:2], bool) if mask is None else mask
    more = -key.shape[1] % columns
    key, value = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (key, value))
    mask = jnp.pad(mask, ((0, 0), (0, more)))
    last = kernels.QKVLayout.SEQ_MINOR
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.FullMask((query.shape[1], key.shape[1]))] * query.shape[2]),
        block_sizes=kernels.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            use_fused_bwd_kernel=True,
            q_layout=last,
            k_layout=last,
            v_layout=last,
        ),
        residual_checkpoint_name="attended",  # which models/layers.heavy keeps
        interpret=interpret,
    )
    query = (query * query.shape[-1] ** -0.5).astype(query.dtype)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    ids = kernels.SegmentIds(q=jnp.ones((len(query), query.shape[2]), jnp.int32), kv=mask.astype(jnp.int32))
    return jax.vmap(kernel)(query, key, value, ids).swapaxes(1, 2)


def row_block(tokens: int, largest: int) -> int:
    """The largest multiple of 128 that divides so many tokens, a multiple of 128 too, and is not above `largest`."""
    return max(size for size in range(LANES, min(tokens, largest) + 1, LANES) if tokens % size == 0)


def key_block(tokens: int, largest: int) -> int:
    """The multiple of 128 up to `largest` whose multiple adds the fewest to so many tokens; the largest of such.

    Keys that do not fit one block come in blocks of 512 or more, or of `largest`.
    """
    if tokens <= largest:
        return sharding.round_up(tokens, LANES)
    sizes = range(min(512, largest), largest + 1, LANES)
    return min(sizes, key=lambda size: (sharding.round_up(tokens, size), -size))
