"""Class-conditional DDPM on scikit-learn's 1,797 handwritten digits, 8x8 grey: the demo, minutes on a CPU.

    python main.py --config=configs/digits.py --workdir=runs/digits
    python main.py --config=configs/digits.py:inpaint --workdir=runs/digits_inpaint      # told a part of the image too

Expected: docs/results.md, table 1 (share of samples read as their label, Frechet distance, neighbours), run on a
2-core CPU.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, inpaint=False)
    config = base.get_config()
    # Whoever inpaints often has no label to tell.
    config.task.update(name="class", drop=0.5 if word.inpaint else 0.1, inpaint=word.inpaint)
    config.data.update(name="digits", shape=(8, 8, 1), classes=10)
    config.model.update(channels=32, multipliers=(1, 2), blocks=2, attention=(4,), num_heads=4, groups=8)
    config.optim.update(lr=2e-3, warmup=100, decay_steps=1400)
    config.ema.update(decays=(0.995,))
    config.train.update(steps=1400, batch_size=64)
    config.checkpoint.update(every=350)
    config.log.update(every=50, samples_every=350, validation_every=350)
    config.sampling.update(sampler="ddim(eta=0.0)", steps=50, guidance=1.2, batch_size=250)
    config.evaluation.update(evaluators=("validation_loss", "small_images"), samples=1000)
    return base.tiny(config) if word.tiny else config


def sweep():
    """12 cells: three learning rates, four seeds each. python -m tools.sweep --config=configs/digits.py --workdir=W"""
    for lr in (1e-3, 2e-3, 4e-3):
        for seed in range(4):
            yield {"optim.lr": lr, "seed": seed}
