"""T5's encoder at a published size on random weights: compiled, loaded from a folder, run.

    python -m benchmarks.text --size=small
    python -m benchmarks.text --size=xxl --compile_only --devices=8

Says how long the compiler takes and what it reserves, how long a folder of bfloat16 takes to lie on the devices and
what the process held meanwhile, and tokens a second. --devices=N on a CPU makes N of it.
"""

import json
import os
import resource
import tempfile
import time

from absl import app, flags

flags.DEFINE_enum("size", "small", ["small", "base", "large", "xl", "xxl"], "Of the encoder.")
flags.DEFINE_integer("devices", 1, "Devices that the CPU stands for.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Rows a batch, a multiple of the devices.", lower_bound=1)
flags.DEFINE_integer("length", 128, "Tokens a row.", lower_bound=1)
flags.DEFINE_bool("compile_only", False, "Neither load nor run.")
FLAGS = flags.FLAGS


def compile_ahead(size, devices) -> None:
    import jax
    import jax.numpy as jnp

    from models import t5
    from tools.embed_captions import layout
    from training.sharding import over_data

    mesh, rule = layout(devices)
    rows = over_data(mesh)

    def abstract(shape, dtype, sharding):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    params = jax.tree.map(lambda x: abstract(x.shape, jnp.bfloat16, rule("", x.shape)), t5.abstract_params(size))
    inputs = [abstract((FLAGS.batch_size, FLAGS.length), dtype, rows) for dtype in (jnp.int32, bool)]
    apply = jax.jit(lambda params, *batch: t5.T5Encoder(size, jnp.bfloat16).apply({"params": params}, *batch))
    began = time.perf_counter()
    compiled = apply.lower(params, *inputs).compile()
    memory = compiled.memory_analysis()
    print(f"compiled in {time.perf_counter() - began:.1f} s; on each of {len(devices)} devices")
    print(f"{memory.argument_size_in_bytes / 1e9:.2f} GB of arguments, {memory.temp_size_in_bytes / 1e9:.2f} GB beside")


def write_random(folder, size) -> None:
    """A Hugging Face folder, a tensor at a time."""
    import jax
    import numpy as np
    from flax.traverse_util import flatten_dict

    from models import safetensors, t5

    rng, found = np.random.default_rng(0), {}
    for path, leaf in flatten_dict(t5.abstract_params(size), sep="/").items():
        piece = t5.PUBLISHED[path]
        shape = leaf.shape[1:] if "{}" in piece.name else leaf.shape
        shape = shape[::-1] if piece.transposed else shape
        for i in range(leaf.shape[0] if "{}" in piece.name else 1):
            found[piece.name.format(i)] = safetensors.Lazy("bfloat16", shape, lambda shape=shape: drawn(rng, shape))
    safetensors.write(os.path.join(folder, "model.safetensors"), found)
    config = dict(zip(("d_model", "d_ff", "num_heads", "d_kv", "num_layers", "vocab_size"), size))
    config |= {"model_type": "t5", "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": t5.NORM_EPS}
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config | {"relative_attention_num_buckets": t5.BUCKETS}, file)
    total = sum(leaf.size for leaf in jax.tree.leaves(t5.abstract_params(size)))
    print(f"{total:,} parameters, {2 * total / 1e9:.2f} GB")


def drawn(rng, shape):
    return (rng.standard_normal(shape, "float32") / shape[-1] ** 0.5).astype("bfloat16")


def load_and_run(size, devices) -> None:
    import numpy as np

    from models.text import t5_encoder
    from tools.embed_captions import device_encoder

    with tempfile.TemporaryDirectory() as folder:
        write_random(folder, size)
        before, began = peak(), time.perf_counter()
        encode = device_encoder(t5_encoder(path=folder, length=FLAGS.length), devices)
        print(
            f"loaded in {time.perf_counter() - began:.1f} s; the process held {before:.2f} GB before, {peak():.2f} then"
        )
    batch = np.ones((FLAGS.batch_size, FLAGS.length), np.int32), np.ones((FLAGS.batch_size, FLAGS.length), bool)
    np.asarray(encode(*batch))
    began = time.perf_counter()
    np.asarray(encode(*batch))
    print(f"{batch[0].size / (time.perf_counter() - began):,.0f} tokens a second")


def peak() -> float:
    """GB that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main(argv) -> None:
    del argv
    asked = f"--xla_force_host_platform_device_count={FLAGS.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {asked}"  # read when jax is imported
    import jax

    from models import t5

    size, devices = t5.SIZES[FLAGS.size], jax.devices()
    compile_ahead(size, devices)
    if not FLAGS.compile_only:
        load_and_run(size, devices)


if __name__ == "__main__":
    app.run(main)
