"""DDPM on CIFAR-10, unconditional, to the letter of Ho et al. 2020: 35,746,307 parameters.

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10

Data through tensorflow-datasets, prepared once as array_record (README). Published: FID 3.17 (50,000 samples, 1000
ancestral steps with the large variance, against the training set), 800k steps of batch 128, 10.6 h on a TPU v3-8.
What was run here: docs/results.md. The original code clips each of 8 replicas' gradients at 1/8 before their sum, which
the word `replicas` does too, on 1, 2 .. 16 devices; without it the whole gradient is clipped at 1.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, replicas=False)
    config = base.get_config()
    config.task.update(flip=True)
    config.data.update(name="tfds", dataset="cifar10", shape=(32, 32, 3))
    config.model.update(channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1)
    if word.replicas:
        config.optim.update(accumulate=8, clip_each=True)
    config.ema.update(decays=(0.9999,), warmup=False)
    config.sampling.update(sampler="ancestral(variance='large')", steps=1000, batch_size=256)
    config.evaluation.update(samples=50_000)
    return base.tiny(config) if word.tiny else config
