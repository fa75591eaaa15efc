"""Scikit-learn's 8x8 digits pixel by pixel: a causal transformer of 1,005,585 parameters, class-conditional.

    python main.py --config=configs/digits_autoregressive.py --workdir=runs/digits_autoregressive
    python main.py --mode=sample --workdir=runs/digits_autoregressive --sampler='tokens(temperature=0.9, top_p=0.98)'

The pixels of this set have 17 values, which are the codebook; bits/dim are of the stored uint8 images all the same.
Expected: docs/families.md, on two CPU cores.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False)
    config = base.get_config()
    config.family = "autoregressive"
    config.task.name = "class"
    config.data.update(name="digits", shape=(8, 8, 1), classes=10)
    config.model.update(name="transformer", values=17, channels=128, blocks=5, num_heads=4, dropout=0.2)
    config.optim.update(name="adamw", lr=2e-3, warmup=100, decay_steps=1400, b2=0.95, weight_decay=0.1)
    config.ema.update(decays=(0.995,))
    config.train.update(steps=1400, batch_size=64)
    config.checkpoint.update(every=350)
    config.log.update(every=50, samples_every=350, validation_every=350)
    config.sampling.update(sampler="tokens(temperature=1.0, top_p=1.0)", batch_size=250)
    config.evaluation.update(evaluators=("validation_loss", "likelihood", "small_images"), samples=1000)
    return base.tiny(config) if word.tiny else config
