"""Average a run's parameters over another width, after training: training/posthoc.py.

    python -m tools.posthoc_ema --workdir=RUN --sigma_rel=0.13,0.2
    python main.py --mode=sample --workdir=RUN --ema=posthoc_0.13

RUN was trained with config.ema.sigma_rels and config.ema.snapshot_every. Says which snapshots were summed with which
weights, and how far the sum's profile is from the one asked for: a residual below 0.1 is a close fit.
"""

import sys

from absl import flags, logging

from experiment import build
from tools.command import read_flags
from training import posthoc
from training.checkpoint import absolute
from workdir import read_config


def define(add: dict) -> None:
    flags.DEFINE_string("workdir", None, "Where the run lies.", required=True, **add)
    flags.DEFINE_list("sigma_rel", None, "Widths of the averages, over the time trained.", required=True, **add)
    flags.DEFINE_integer("step", None, "Where the averages end; default the last snapshot.", **add)


def parse_flags(argv: list[str]) -> flags.FlagValues:
    """Raises ValueError or flags.Error for what is unknown or lacks."""
    return read_flags(argv, __doc__, define)


def widths(words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f"--sigma_rel={','.join(words)} must be numbers, parted by commas") from None


def tell(fit: posthoc.Fit) -> None:
    """The sum, a line for each snapshot."""
    print(f"{posthoc.name(fit.sigma_rel)} at step {fit.step}: residual {fit.residual:.2g}")
    for snapshot, weight in zip(fit.snapshots, fit.weights, strict=True):
        print(f"{weight:12.6f}  {snapshot.name} at step {snapshot.step}")


def main(argv: list[str]) -> None:
    try:
        options = parse_flags(argv)
        workdir = absolute(options.workdir)
        snapshots = posthoc.read_snapshots(workdir)
        fits = [posthoc.fit(snapshots, sigma_rel, options.step) for sigma_rel in widths(options.sigma_rel)]
        like = build(read_config(workdir)).abstract.params
        for fit in fits:
            posthoc.write(workdir, fit, posthoc.reconstruct(workdir, fit, like))
            tell(fit)
    except (flags.Error, ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)  # Orbax warns of its own options
    main(sys.argv)
