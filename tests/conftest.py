"""Eight host devices and one compilation cache for the whole suite and the processes it starts."""

import functools
import os
import pathlib
import sys

import pytest
from absl import logging

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# A program here runs a few times and its time is the compiler's, which these cut to a third. A jaxlib that no longer
# has one of them stops with its name. Tests of main.py start it without them, as a user does.
HASTE = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(("--xla_force_host_platform_device_count=8", *HASTE))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


@pytest.fixture(autouse=True)
def own_verbosity():
    """absl's lines reach each test, whatever a tool, or flags parsed in process, made of its verbosity before."""
    logging.get_absl_logger().setLevel("NOTSET")


@pytest.fixture(scope="session")
def optimised():
    """jax.jit as a user's: where two programs must agree bit for bit, or one with a golden file to its last digits."""
    import jax

    options = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
    return functools.partial(jax.jit, compiler_options=options)
