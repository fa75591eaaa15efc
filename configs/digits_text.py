"""Scikit-learn's 8x8 digits from what a prompt says, 'a seven': text to image in minutes on a CPU (make demo-text).

    python main.py --config=configs/digits_text.py --workdir=runs/digits_text
    python main.py --mode=sample --workdir=runs/digits_text --prompt="a seven" --num=16

The words of a prompt are bytes, read by a small transformer that is trained with the network; each image has captions
in 144 wordings, and 6 others are kept for judging. `size=4` is the same at 4x4, and `low=4` the stage that makes 8x8
of it: together a cascade (configs/imagen.py:digits). Expected: docs/imagen.md, on two CPU cores.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, size=8, low=0)
    config = base.get_config()
    config.task.update(name="text", drop=0.1, low_size=word.low)
    config.data.update(name="digits", shape=(word.size, word.size, 1), captions=True)
    config.text.encoder = "bytes(length=48, width=64, layers=2, heads=4)"
    config.model.update(channels=32, multipliers=(1, 2), blocks=2, attention=(word.size // 2,), num_heads=4, groups=8)
    config.optim.update(lr=2e-3, warmup=100, decay_steps=1600)
    config.ema.update(decays=(0.995,))
    config.train.update(steps=1600, batch_size=64)
    config.checkpoint.update(every=400)
    config.log.update(every=50, samples_every=400, validation_every=400)
    config.sampling.update(sampler="ddim(eta=0.0)", steps=50, batch_size=250)
    if word.low:
        config.sampling.aug_level = 0.1
    else:
        config.sampling.guidance = 2.0
    judge = "super_resolution" if word.low else "wordings" if word.size == 8 else "small_images"
    config.evaluation.update(evaluators=("validation_loss", judge), samples=1000)
    return base.tiny(config) if word.tiny else config
