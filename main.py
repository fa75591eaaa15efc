"""The entry point: flags, devices, one call per mode. The logic is in modules that tests and notebooks import."""

import os
import sys
from logging import ERROR, WARNING, Formatter

from absl import app, flags, logging
from ml_collections import config_flags

import huge_pages

MODES = ("train", "sample", "evaluate", "edit")

flags.DEFINE_string("mode", "train", f"What to do: {', '.join(MODES)}.")
flags.DEFINE_string("workdir", None, "Where the run lies; may be a bucket.", required=True)
flags.DEFINE_bool("allow_config_change", False, "Resume although keys that shape the result differ.")
flags.DEFINE_integer("checkpoint", None, "sample, evaluate, edit: the step to use; default the latest.")
flags.DEFINE_string("ema", None, "sample, evaluate, edit: the average to use, or 'raw'; default the config's first.")
flags.DEFINE_integer("num", None, "sample, edit: how many images; default one for each prompt, or 64.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "sample, evaluate, edit: image i has seed SEED + i.", lower_bound=0, upper_bound=2**31)
flags.DEFINE_string("label", None, "sample, edit: a label for all; sample: or 'balanced', default the training set's.")
flags.DEFINE_string("prompt", None, "sample, edit: what the images are to show; of models that take text.")
flags.DEFINE_string("prompts", None, "sample: a file of prompts, one a line, or CSV with columns Prompts, Category.")
flags.DEFINE_string("sampler", None, "sample, evaluate, edit: overrides config.sampling.sampler, e.g. 'ddim(eta=1.0)'.")
flags.DEFINE_integer("steps", None, "sample, evaluate, edit: overrides config.sampling.steps.", lower_bound=1)
flags.DEFINE_float("guidance", None, "sample, evaluate, edit: overrides config.sampling.guidance.")
flags.DEFINE_string("out", None, "sample, evaluate, edit: where results go; default inside the workdir.")
flags.DEFINE_bool("watch", False, "evaluate: every checkpoint not judged yet, until the training there is done.")
flags.DEFINE_string("task", "inpaint", "edit: what to do; docs/editing.md lists all.")
flags.DEFINE_string("input", None, "edit: an image, or a folder of images.")
flags.DEFINE_string("mask", None, "edit: what to make up is white, in a file of the image's size, or a folder of them.")
flags.DEFINE_list("box", None, "edit: top,left,height,width of what to make up; uncrop: of what is given.")
flags.DEFINE_string("method", None, "edit: how to hold to what is known, e.g. 'repaint(jump=1, resamplings=10)'.")
flags.DEFINE_float("strength", None, "edit: how far towards noise, in (0, 1].")
flags.DEFINE_string("source", None, "edit: invert: the label or prompt of the input itself.")
flags.DEFINE_integer("factor", 2, "edit: enlarge: how many times larger the result is.", lower_bound=2)
flags.DEFINE_enum("format", "png", ("png", "jpeg", "webp"), "edit: of the results.")
flags.DEFINE_string("compilation_cache", None, "Folder of compiled programs, or bucket; default ~/.cache/langevin.")
flags.DEFINE_bool("distributed", True, "Join the other processes of a Cloud TPU slice, SLURM step or MPI world.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where the environment does not say it.")
flags.DEFINE_integer("num_processes", None, "With --coordinator: how many there are.", lower_bound=1)
flags.DEFINE_integer("process_id", None, "With --coordinator: which of them this is, from 0.", lower_bound=0)
FLAGS = flags.FLAGS

# Flags that say something in these modes alone; elsewhere a config key does.
ONLY_IN = dict.fromkeys(("num", "label", "prompt"), ("sample", "edit")) | {"prompts": ("sample",)}
ONLY_IN |= dict.fromkeys(
    ("checkpoint", "ema", "seed", "sampler", "steps", "guidance", "out"), ("sample", "evaluate", "edit")
)
EDITING = ("task", "input", "mask", "box", "method", "strength", "source", "factor", "format")
ONLY_IN |= dict.fromkeys(EDITING, ("edit",))
ONLY_IN |= {"allow_config_change": ("train",), "watch": ("evaluate",)}


def main(argv):
    set_up_devices()
    import modes  # after the devices are set up: importing it imports jax
    import preflight
    from training.interrupt import Interrupted
    from training.loop import Diverged

    try:
        check_flags(argv)
        preflight.check(preflight.places(FLAGS.config, FLAGS))
        join_processes()
        modes.MODES[FLAGS.mode](FLAGS.config, FLAGS)
    except (ValueError, OSError, ImportError, Diverged) as error:
        fail(error)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signum)


def check_flags(argv):
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}; every option is a flag, --name=value")
    if "stages" in FLAGS.config and FLAGS.mode != "sample":
        raise ValueError(f"this config is of a cascade, which only samples: to {FLAGS.mode}, name that of a stage")
    for name, modes in ONLY_IN.items():
        if FLAGS[name].present and FLAGS.mode not in modes:
            where = " or ".join(modes)
            raise ValueError(f"--{name} belongs to --mode={where}; in {FLAGS.mode} set a config key, --config.KEY")


def set_up_devices():
    """Persistent compilation cache on; absl's INFO lines as plain progress."""
    import jax

    cache = FLAGS.compilation_cache or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    jax.config.update("jax_compilation_cache_dir", cache or os.path.expanduser("~/.cache/langevin"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    logging.set_verbosity(max(FLAGS.verbosity, logging.INFO))
    logging.get_absl_handler().setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.get_absl_handler().addFilter(ours_or_serious)


def join_processes():
    """All processes of this job become one; the first alone tells how it goes."""
    from training import hosts

    if FLAGS.distributed:
        hosts.connect(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
        if not hosts.writes():
            logging.set_verbosity(logging.WARNING)


def ours_or_serious(record):
    """Lines of this code, warnings of libraries, and errors of Orbax, whose warnings are about its own options."""
    serious = ERROR if "orbax" in record.pathname else WARNING
    return "site-packages" not in record.pathname or record.levelno >= serious


def parse_flags(argv):
    """Flags as absl parses them, --config from the workdir's config.json where a mode needs no new one.

    Mistakes in flags and config keys become one line and exit status 2.
    """
    try:
        define_config(argv)
        return FLAGS(argv)
    except (AttributeError, KeyError) as error:
        from workdir import unknown_flag

        fail(unknown_flag(argv) or error)
    except (flags.Error, TypeError, ValueError, OSError) as error:
        fail(error)


def define_config(argv):
    """Defines --config by what the other flags say: a file, or the config of the run in the workdir."""
    FLAGS(argv, known_only=True)
    if FLAGS.mode not in MODES:
        raise ValueError(f"--mode={FLAGS.mode} is unknown; choose from {', '.join(MODES)}")
    given = any(word.lstrip("-").partition("=")[0] == "config" for word in argv[1:])
    if given or FLAGS.mode == "train":
        config_flags.DEFINE_config_file("config", None, "FILE.py[:word[,word][,key=value]]", lock_config=True)
        flags.mark_flag_as_required("config")
    else:
        from training.checkpoint import absolute
        from workdir import read_config

        config_flags.DEFINE_config_dict("config", read_config(absolute(FLAGS.workdir)), lock_config=True)


def fail(error):
    """One line on stderr, exit status 2; the traceback with LANGEVIN_TRACEBACK=1."""
    if os.environ.get("LANGEVIN_TRACEBACK") and isinstance(error, Exception):
        raise error
    lines = str(error).strip().splitlines()
    # ml_collections quotes the whole traceback of a config file's mistake: its last line is the mistake.
    text = (
        lines[-1].removeprefix("ValueError: ")
        if "Traceback" in str(error)
        else " ".join(line.strip() for line in lines)
    )
    print("error:", text, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    huge_pages.restart()
    app.run(main, flags_parser=parse_flags)
