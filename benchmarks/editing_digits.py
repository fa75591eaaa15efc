"""What editing makes of real digits that were not trained on: are halves completed right, do inversions lead back?

    python main.py --config=configs/digits.py --config.task.drop=0.5 --workdir=runs/digits_half
    python main.py --config=configs/digits.py:inpaint --workdir=runs/digits_inpaint
    python -m benchmarks.editing_digits --workdir=runs/digits_half [--trained=runs/digits_inpaint]

Prints two Markdown tables. The first hides the right half of each held-out digit and lets a classifier of whole real
digits read the completions. A completion drawn without a label cannot be read right more often than the best reader
of visible halves does; told the label, without guidance, it can. CPU time is that of the compiled program, over
sampling without an edit. The second inverts the digits and
generates them again.
"""

import functools
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

import langevin
from evaluation.classifier import support_vectors

WORKDIR = flags.DEFINE_string("workdir", None, "a trained run of configs/digits.py", required=True)
TRAINED = flags.DEFINE_string("trained", None, "a trained run of configs/digits.py:inpaint, for a row of its own")
IMAGES = flags.DEFINE_integer("images", 100, "held-out digits", lower_bound=1)

METHODS = (
    "replacement",
    "repaint(jump=1, resamplings=10)",
    "projection",
    "pigdm(variance=0.5)",
    "dps(zeta=0.5)",
    "covariance(solves=4)",
)
INVERSION_STEPS = (10, 20, 50, 100, 200)  # of those in DDIM's table 2

GUESSES = 50  # of each hidden half


def share(classify, images: np.ndarray, labels: np.ndarray) -> str:
    return f"{np.mean(classify(images) == labels):.3f}"


def guessed(classify, images: np.ndarray, labels: np.ndarray, hidden: np.ndarray, others: np.ndarray) -> float:
    """The share read right where what is hidden is a guess: any of the other digits' pixels."""
    chance, shares = np.random.default_rng(0), []
    for _ in range(GUESSES):
        guess = others[chance.integers(len(others), size=len(images))]
        shares.append(np.mean(classify(np.where(hidden[..., None], guess, images)) == labels))
    return np.mean(shares)


def readings(model: langevin.Model, trained: langevin.Model | None, train: dict, held_out: dict) -> None:
    """The first table."""
    images, labels = held_out["image"], held_out["label"]
    hidden = np.zeros(images.shape[1:3], bool)
    hidden[:, images.shape[2] // 2 :] = True
    visible = ~hidden[..., None]
    classify = support_vectors(train["image"], train["label"])
    of_halves = support_vectors(train["image"] * visible, train["label"])
    mean = train["image"].mean(0).round().astype(np.uint8)
    print(f"{len(images)} held-out digits, right half hidden; share read as the right class\n")
    print("| | without a label | told the label | network calls | derivatives beside each | CPU time |")
    print("|---|---|---|---|---|---|")
    for name, reader, shown in (
        ("whole digits", classify, images),
        ("visible half, by a reader trained on such halves", of_halves, images * visible),
        ("visible half beside the mean digit's other", classify, np.where(visible, images, mean)),
    ):
        print(f"| {name} | {share(reader, shown, labels)} | | | | |", flush=True)
    guess = guessed(classify, images, labels, hidden, train["image"])
    print(f"| visible half beside any training digit's other | {guess:.3f} | | | | |", flush=True)
    rows = [(f"`{method}`", model, method) for method in METHODS]
    rows += [("a network trained to inpaint", trained, "")] if trained else []
    sample = functools.partial(model.using(guidance=None).sample, len(images), label=labels)
    sample()  # compiles
    _, sampling = timed(sample)
    for name, filler, method in rows:
        blind = filler.inpaint(images, hidden, method)
        told, seconds = timed(
            functools.partial(filler.using(guidance=None).inpaint, images, hidden, method, label=labels)
        )
        calls, derivatives = filler.calls(method) if method else (filler.settings.steps, 0)
        cells = share(classify, blind, labels), share(classify, told, labels), calls, derivatives
        print(f"| {name} | " + " | ".join(map(str, cells)) + f" | {seconds / sampling:.1f} |", flush=True)


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """(what it returns, CPU seconds of this process in it)."""
    began = time.process_time()
    return run(), time.process_time() - began


def inversions(model: langevin.Model, held_out: dict) -> None:
    """The second table."""
    images, labels = held_out["image"], held_out["label"]
    print("\n| steps | " + " | ".join(map(str, INVERSION_STEPS)) + " |")
    print("|---|" + "---|" * len(INVERSION_STEPS))
    for name, given in ("without a label", {}), ("with its label", {"label": labels}):
        errors = []
        for steps in INVERSION_STEPS:
            exact = model.using(steps=steps, guidance=None)
            back = exact.generate(exact.invert(images, **given), **given)
            errors.append(np.mean((back / 255 - images / 255) ** 2))
        print(f"| MSE in [0, 1], {name} | " + " | ".join(f"{error:.5f}" for error in errors) + " |", flush=True)


def main(argv) -> None:
    model = langevin.load(WORKDIR.value)
    sources = [model.experiment.source(split) for split in ("train", "test")]
    train, held_out = (source.read(np.arange(source.size)) for source in sources)
    held_out = {name: rows[: IMAGES.value] for name, rows in held_out.items()}
    readings(model, TRAINED.value and langevin.load(TRAINED.value), train, held_out)
    inversions(model, held_out)


if __name__ == "__main__":
    app.run(main)
