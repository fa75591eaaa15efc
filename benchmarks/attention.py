"""What one attention layer moves on a TPU, forward and backward, as its compiler counts: two implementations.

    pip install 'jax[tpu]'; JAX_PLATFORMS=cpu python -m benchmarks.attention

No TPU is needed, and nothing runs: programs are compiled ahead of time for one v5e chip. Compared are
jax.nn.dot_product_attention, which the networks use, and JAX's own flash kernel. Sizes are the ADM network's at 64
pixels, 16 images a chip.
"""

import os

os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from absl import app  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.experimental.pallas.ops.tpu import flash_attention as kernel  # noqa: E402

SIZES = ((16, 1024, 6, 64), (16, 256, 9, 64))  # images, tokens, heads, width of a head
BLOCK = 512  # tokens at a time, at most


def flash(query, key, value):
    block = min(BLOCK, query.shape[1])
    names = ("q", "k_major", "k", "q_major_dkv", "k_major_dkv", "k_dkv", "q_dkv", "k_major_dq", "k_dq", "q_dq")
    blocks = kernel.BlockSizes(block_b=1, **{f"block_{name}": block for name in names})
    heads_first = [x.transpose(0, 2, 1, 3) for x in (query, key, value)]
    scale = query.shape[-1] ** -0.5
    return kernel.flash_attention(*heads_first, sm_scale=scale, block_sizes=blocks).transpose(0, 2, 1, 3)


def moved(attend, shape: tuple[int, ...]) -> float:
    """Bytes an image of the forward and the backward pass."""
    slice_ = topologies.get_topology_desc(platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1))
    place = jax.sharding.SingleDeviceSharding(slice_.devices[0])
    one = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

    def both(query, key, value, cotangent):
        return jax.vjp(attend, query, key, value)[1](cotangent)

    program = jax.jit(both).trace(one, one, one, one).lower(lowering_platforms=("tpu",)).compile()
    return program.cost_analysis()["bytes accessed"] / shape[0]


def main(argv):
    del argv
    for shape in SIZES:
        _, tokens, heads, width = shape
        for name, attend in {"dot_product_attention": jax.nn.dot_product_attention, "flash": flash}.items():
            amount = f"{moved(attend, shape) / 1e6:8.1f} MB an image"
            print(f"{tokens} tokens, {heads} heads of {width}  {name:<24}{amount}")


if __name__ == "__main__":
    app.run(main)
