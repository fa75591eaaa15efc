"""What one attention layer moves on a TPU, forward and backward, as its compiler counts: two implementations.

    pip install 'jax[tpu]'; JAX_PLATFORMS=cpu python -m benchmarks.attention

No TPU is needed, and nothing runs: programs are compiled ahead of time for one v5e chip. Compared are
jax.nn.dot_product_attention, which networks use, and the kernel that they use with model.flash. Sizes are of the ADM
network at 64 pixels, 16 images a chip, and of Imagen's base with its text.
"""

import os

os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from absl import app  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from training import flash, sharding  # noqa: E402

IMAGES = 16
SIZES = ((1024, 1024, 6, 64), (1024, 1152, 6, 64), (256, 256, 9, 64))  # pixels, keys, heads, width of a head


def facts(mesh, attend, pixels: int, keys: int, heads: int, width: int) -> tuple[float, float]:
    """(bytes moved, bytes of temporaries), each an image, of the forward and the backward pass."""

    def array(tokens):
        shape = (IMAGES, tokens, heads, width)
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding.over_data(mesh))

    def both(query, key, value, cotangent):
        return jax.vjp(attend, query, key, value)[1](cotangent)

    traced = jax.jit(both).trace(array(pixels), array(keys), array(keys), array(pixels))
    program = traced.lower(lowering_platforms=("tpu",)).compile()
    moved, held = program.cost_analysis()["bytes accessed"], program.memory_analysis().temp_size_in_bytes
    return moved / IMAGES, held / IMAGES


def main(argv):
    del argv
    slice_ = topologies.get_topology_desc(platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1))
    mesh = sharding.data_mesh(slice_.devices)
    for size in SIZES:
        for name, attend in {
            "dot_product_attention": jax.nn.dot_product_attention,
            "flash": flash.attention(mesh),
        }.items():
            moved, held = (x / 1e6 for x in facts(mesh, attend, *size))
            pixels, keys, heads, width = size
            what = f"{pixels} pixels, {keys} keys, {heads} heads of {width}"
            print(f"{what:<45}{name:<24}{moved:8.1f} MB an image moved {held:8.2f} MB held")


if __name__ == "__main__":
    app.run(main)
