"""Rectified flow with SiD2's sigmoid weighting on ImageNet-64: a cheap way to a good FID there.

    python main.py --config=configs/sid2.py --workdir=runs/sid2 --config.data.path=SHARDS

Hoogeboom et al. 2024 (SiD2, arXiv 2410.19324) for the weighting, with a bias of 2 at 64 pixels; hyper-parameters of
google/hackable_diffusion's configuration, which reports FID 4.1 in 500k steps of batch 512, 256M training images, and
2.7 in 2M, 1,024M. Its U-Net has RMS norms and rotary attention at 16 and 8, and adds its skips; the network here is
ADM's with attention at the same sizes, 291,755,139 parameters. SHARDS: `python -m tools.pack --size=64`.
Not trained here: built, counted, and its tiny variant trained for two steps, in the tests. Small: docs/recipes.md.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False)
    config = base.get_config()
    config.task.update(name="class", drop=0.1, flip=True)
    config.data.update(name="arrayrecord", shape=(64, 64, 3), classes=1000)
    base.adm64(config.model, attention=(16, 8))
    config.diffusion.update(schedule="flow", prediction="flow", weighting="sigmoid(bias=2.0)")
    config.optim.update(lr=3e-5, warmup=10_000, b2=0.99, eps=1e-12)
    config.ema.update(warmup=False)
    config.train.update(steps=2_000_000, batch_size=512)
    # Its `stoch_coeff` c = .25 is not DDIM's eta: std^2 = sigma_s^2 (1 - (1 - c (1 - r))^2), r^2 = SNR_t / SNR_s, and
    # with eta sigma_s^2 eta^2 (1 - r^2). Of small steps they are the same where eta = sqrt(c).
    config.sampling.update(sampler="ddim(eta=0.5)", steps=250)
    return base.tiny(config) if word.tiny else config
