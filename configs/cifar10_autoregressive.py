"""CIFAR-10 value by value, red, green, blue of each pixel: a causal transformer over 3,072 places, class-conditional.

    python main.py --config=configs/cifar10_autoregressive.py --workdir=runs/cifar10_autoregressive

19,875,328 parameters. The Sparse Transformer (Child et al. 2019, arXiv 1904.10509) has 2.80 bits/dim on it,
unconditional, with 59M and attention to a part of the places; dropout, learning rate, warm-up and batch size are its
own. For a GPU or a TPU: attention to all places takes 38 MB a head and image in each block, which `remat` makes anew
in the backward pass. Not trained here.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False)
    config = base.get_config()
    config.family = "autoregressive"
    config.task.update(name="class", flip=True)
    config.data.update(name="tfds", dataset="cifar10", shape=(32, 32, 3), classes=10)
    config.model.update(name="transformer", channels=256, blocks=24, num_heads=2, dropout=0.25, remat="blocks")
    config.optim.update(name="adamw", lr=3.5e-4, warmup=5000, decay_steps=500_000, b2=0.95, weight_decay=0.01)
    config.train.update(steps=500_000, batch_size=16)
    config.sampling.update(sampler="tokens(temperature=1.0, top_p=1.0)")
    config.evaluation.update(evaluators=("validation_loss", "likelihood"), samples=50_000)
    return base.tiny(config) if word.tiny else config
