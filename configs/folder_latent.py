"""Latent diffusion on any folder of images: the U-Net on latents of a variational autoencoder, which stays as it is.

    python main.py --config=configs/folder_latent.py:path=DIR,size=64,vae=runs/faces_vae --workdir=runs/faces_latent
    python main.py --mode=sample --workdir=runs/faces_latent --num=64

`vae` is the workdir of configs/folder_vae.py's training on the same folder; `published` in its place the folder of an
AutoencoderKL as diffusers writes it. The latents' mean and deviation are measured when the training starts and kept in
its config.json. Expected: docs/families.md.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, path="", size="64", channels=3, vae="", published="")
    if word.vae and word.published:
        raise ValueError(
            f"vae={word.vae!r} and published={word.published!r}: give one of the two, DIR of an autoencoder"
        )
    config = base.get_config()
    config.task.update(flip=True)
    config.data.update(name="folder", path=word.path, shape=(*base.sides(word.size), word.channels))
    kind = f"diffusers(path={word.published!r})" if word.published else f"run(workdir={word.vae!r})"
    config.latent.encoder = kind
    config.model.update(channels=96, multipliers=(1, 2), blocks=2, attention=(8,), num_heads=4, convention="adm")
    config.diffusion.update(schedule="cosine", prediction="v")
    config.optim.update(lr=5e-4, warmup=500)
    config.ema.update(decays=(0.999,))
    config.train.update(steps=50_000, batch_size=64)
    config.log.update(every=100, samples_every=2500, validation_every=2500)
    config.checkpoint.update(every=1000)
    config.sampling.update(steps=50, threshold="none")
    return base.tiny(config) if word.tiny else config
