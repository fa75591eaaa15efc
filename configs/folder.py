"""DDPM on any folder of images, with class subfolders or without.

    python main.py --config=configs/folder.py:path=DIR,size=64 --workdir=runs/mine
    python main.py --config=configs/folder.py:path=DIR,size=32,classes=10,small --workdir=runs/mine

`classes` is the number of subfolders that are labels; `size` what resize and centre crop make, 64 or 96x64 (height x
width); `channels=1` is grey; `small` is a network for one CPU or an afternoon. Expected: docs/results.md, for `small`
on CIFAR-10's images.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, small=False, path="", size="64", channels=3, classes=0)
    config = base.get_config()
    config.data.update(name="folder", path=word.path)
    if word.small:
        config.model.update(channels=64, multipliers=(1, 2, 2), blocks=1)
    base.images(config, word.size, word.channels, word.classes)
    config.optim.update(warmup=1000)
    config.train.update(steps=200_000)
    return base.tiny(config) if word.tiny else config
