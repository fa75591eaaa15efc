"""Handwritten digits at 28x28, class-conditional, from a folder of MNIST's images: one model, or a cascade of two.

    python main.py --config=configs/mnist.py:path=DIR --workdir=runs/mnist
    python main.py --config=configs/mnist.py:path=DIR,size=14 --workdir=runs/mnist14
    python main.py --config=configs/mnist.py:path=DIR,low=14 --workdir=runs/mnist28

DIR has train/ and test/ with a subfolder for each digit. The second and third are the stages of
configs/imagen.py:mnist. For one GPU, or two CPU cores and an hour. Expected: docs/imagen.md.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, path="", size=28, low=0)
    config = base.get_config()
    config.task.update(name="class", drop=0.1, low_size=word.low)
    config.data.update(name="folder", path=word.path, shape=(word.size, word.size, 1), classes=10)
    config.model.update(channels=32, multipliers=(1, 2), blocks=2, attention=(word.size // 2,), num_heads=4, groups=8)
    if word.low:
        config.model.attention = ()
    config.optim.update(lr=1e-3, warmup=200, decay_steps=6000)
    config.ema.update(decays=(0.999,))
    config.train.update(steps=6000, batch_size=64)
    config.checkpoint.update(every=1000)
    config.log.update(every=100, samples_every=1000, validation_every=1000)
    config.sampling.update(guidance=None if word.low else 1.5, aug_level=0.1 if word.low else 0.0, batch_size=100)
    judge = "super_resolution" if word.low else "small_images"
    config.evaluation.update(evaluators=("validation_loss", judge), samples=1000)
    return base.tiny(config) if word.tiny else config
