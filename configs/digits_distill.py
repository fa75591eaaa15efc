"""Digits in few steps: a teacher, and students of it by progressive or consistency distillation.

    python main.py --config=configs/digits_distill.py:teacher --workdir=runs/digits_v                       # 50 steps
    python main.py --config=configs/digits_distill.py:of=runs/digits_v,steps=8,guided --workdir=runs/digits_8
    python main.py --config=configs/digits_distill.py:of=runs/digits_8,steps=4 --workdir=runs/digits_4       # then 2, 1
    python main.py --config=configs/digits_distill.py:consistency,of=runs/digits_v --workdir=runs/digits_consistency
    python main.py --config=configs/digits_distill.py:untaught --workdir=runs/digits_untaught   # consistency training
    python main.py --mode=sample --workdir=runs/digits_4

The first stage takes its teacher's guidance in, `guided`, and those after it inherit it. All of them and what they are
worth beside each other: python -m benchmarks.distillation --runs=runs. What was run: docs/distillation.md.
"""

from configs import base

GUIDANCE = 1.2
KINDS = ("teacher", "consistency", "untaught")


def get_config(arg=""):
    word = base.words(arg, tiny=False, guided=False, of="runs/digits_v", steps=0, **dict.fromkeys(KINDS, False))
    kind = base.one_of(word, KINDS, "progressive")
    if kind != "progressive" and (word.steps or word.guided):
        raise ValueError(f"config words steps and guided are of progressive stages: leave them out beside {kind}")
    config = base.get_config()
    config.task.update(name="class", drop=0.1)
    config.data.update(name="digits", shape=(8, 8, 1), classes=10)
    config.model.update(channels=32, multipliers=(1, 2), blocks=2, attention=(4,), num_heads=4, groups=8)
    config.diffusion.update(schedule="cosine(logsnr_min=-10.0, logsnr_max=13.0)", prediction="v", weighting="uniform_v")
    config.optim.update(lr=2e-3, warmup=100, decay_steps=1400)
    config.ema.update(decays=(0.995,))
    config.train.update(steps=1400, batch_size=64)
    config.checkpoint.update(every=350)
    config.log.update(every=50, samples_every=350, validation_every=350)
    config.sampling.update(sampler="ddim(eta=0.0)", steps=50, guidance=GUIDANCE, batch_size=250)
    config.evaluation.update(evaluators=("small_images",), samples=1000)
    if kind != "teacher":
        student(config, kind, word)
    return base.tiny(config) if word.tiny else config


def student(config, kind, word):
    """What differs from the teacher's training."""
    config.sampling.guidance = None  # it's in the student
    if kind == "progressive":
        progressive(config, word)
    elif kind == "consistency":
        consistency(config)
        config.distill.update(method=f"consistency(target=0.95, guidance={GUIDANCE})", teacher=word.of)
        config.train.steps = 300
    else:
        consistency(config)
        config.distill.method = "consistency_training(first=10, last=80, every=100)"
        config.train.steps = 400
    config.train.batch_size = 32
    steps = config.train.steps
    config.optim.update(lr=1e-3, warmup=20, decay_steps=steps)
    config.checkpoint.every = config.log.samples_every = steps
    config.log.update(every=20, validation_every=0)  # that is of a denoiser, which a student no longer is


def progressive(config, word):
    steps = word.steps or 8
    guidance = f", guidance={GUIDANCE}" if word.guided else ""
    config.distill.update(method=f"progressive(steps={steps}{guidance})", teacher=word.of)
    config.diffusion.weighting = "truncated_snr"
    config.sampling.steps = steps
    config.ema.update(decays=(0.98,))
    config.train.steps = 100 if steps > 2 else 200  # the last stages take longer, as in the paper


def consistency(config):
    config.diffusion.times = "log_normal(mean=-1.1, std=2.0)"
    config.sampling.update(sampler="consistency(sigma_min=0.002)", steps=2)
    config.ema.update(decays=(0.99, 0.95))
