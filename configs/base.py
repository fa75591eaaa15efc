"""Every knob once, with its meaning. A recipe is this plus its differences; nothing here knows the project's code.

Small parts are named as they would be called, 'ddim(eta=0.0)': the name is looked up in a table of the package
that owns it, numbers with a point are traced (a sweep over them compiles once), the rest is fixed in the program.
"""

from ml_collections import ConfigDict, config_dict


def get_config():
    config = ConfigDict()
    # Keys of parameters, noise, dropout and data order all derive from it and from the step.
    config.seed = 0

    # Warm start: DIR[:step] of another workdir, '' for none. `init_weights` is the name of an EMA, or 'raw';
    # `init_pattern` is a regular expression over parameter names, searched; what it skips is listed.
    config.init_from = ""
    config.init_weights = "raw"
    config.init_pattern = ".*"

    config.family = "diffusion"  # of generative models: families/

    config.task = ConfigDict()
    config.task.name = "unconditional"  # or 'class', 'text'
    config.task.drop = 0.0  # share of examples whose condition is dropped in training; guidance needs > 0
    config.task.flip = False  # random horizontal flips in training
    config.task.low_size = 0  # > 0: super-resolution from images of this height, of any of these tasks
    config.task.augment = 0.0  # > 0: EDM's augmentations, each with this probability, of which the network is told
    config.task.inpaint = False  # any of these tasks, told a part of the image too
    config.task.crop = 0  # > 0: super-resolution is trained on squares of this side; multiples of the scale factor

    config.data = ConfigDict()
    config.data.name = "digits"  # digits, folder, arrayrecord, tfds
    config.data.path = ""  # folder or shards; for tfds the data directory
    config.data.dataset = ""  # tfds: name[/config][:version]
    config.data.shape = (32, 32, 3)  # height, width, channels after resizing
    config.data.classes = 0  # number of labels; 0 without labels
    config.data.captions = False  # read captions, for task.name='text'
    config.data.preprocess = "crop"  # antialiased resize and centre crop; 'adm' is ADM's ImageNet preprocessing
    config.data.train_split = "train"
    config.data.eval_split = "test"
    config.data.max_bad_share = 0.01  # more unreadable images than this stop the run
    config.data.workers = 4  # decoding threads; images in memory need none
    config.data.prefetch = 2  # batches read ahead

    config.text = ConfigDict()  # of task.name='text'
    config.text.encoder = "bytes(length=32)"  # learned with the network; frozen: t5(path=DIR, length=128), hf(..)
    config.text.embeddings = ""  # folder of embeddings that tools/embed_captions.py made; '' encodes in the train step

    config.model = ConfigDict()  # the fields of the named module; sizes and labels follow from data and task
    config.model.name = "unet"  # efficient_unet, song_unet, edm2_unet, dit, u_vit; what one does not take stays as here
    config.model.channels = 128  # of a transformer: its width
    config.model.multipliers = (
        1,
        2,
        2,
        2,
    )  # channels of each level over `channels`; each level halves the size
    config.model.blocks = 2  # residual blocks per level on the way down, one more on the way up; dit: all there are
    config.model.patch = 1  # dit, u_vit: side of the patches that the image is cut into
    config.model.middle = 0  # u_vit: transformer blocks of the last level
    config.model.level_blocks = ()  # efficient_unet: of each level, instead
    config.model.cross_attention = ()  # efficient_unet: sizes with attention to the text alone
    config.model.attention = (16,)  # sizes at which each block is followed by self-attention
    config.model.num_heads = 1
    config.model.head_channels = 0  # > 0: as many heads as fit, instead of num_heads
    config.model.dropout = 0.0
    config.model.values = 256  # transformer: how many a pixel may have, equally far apart from 0 to 255
    config.model.groups = 32  # of every group norm
    config.model.scale_shift = False  # the embedding scales and shifts the norm (ADM), or is added (DDPM)
    config.model.resample = "conv"  # by convolutions (DDPM), or 'block', inside residual blocks (ADM)
    config.model.convention = "ddpm"  # unet's, of embedding, norm epsilon and initialisers: 'ddpm' or 'adm'
    config.model.remat = "none"  # what the backward pass recomputes: 'dots' (norms, nonlinearities), 'blocks' (all)
    config.model.flash = False  # attention by a kernel of the TPU or GPU, in bfloat16, that writes no logits
    config.model.dtype = "float32"  # of the network's arithmetic; parameters stay float32. 'bfloat16' on accelerators

    config.diffusion = ConfigDict()
    config.diffusion.schedule = "linear(steps=1000)"  # composed as 'shifted(base=cosine(), resolution=256)'
    config.diffusion.prediction = "eps"  # eps(rescale=True): told 1000 / T times the index (iDDPM)
    config.diffusion.weighting = "simple"
    config.diffusion.loss = "weighted"  # with a learned variance: hybrid(rescale=True) or variational (iDDPM); vdm
    config.diffusion.uncertainty = False  # a learned weight for each level on top of the loss (EDM2)
    config.diffusion.times = "uniform"  # logit_normal(mean=0.0, std=1.0), log_normal(..) (EDM), importance (iDDPM)
    config.diffusion.stratified = False  # one time in each of batch_size equal parts of their distribution

    config.distill = ConfigDict()  # a student of another run, docs/distillation.md
    # progressive(steps=4), consistency(target=0.95), or without a teacher consistency_training(every=1000); '' for none
    config.distill.method = ""
    config.distill.teacher = ""  # DIR[:step]: its first average teaches, and the student starts from it

    config.vae = ConfigDict()  # of family=vae
    config.vae.latent = 4  # channels of the latents, whose sides are those of the network's lowest level
    config.vae.beta = 1.0  # weight of the KL term; 1 is the bound on the likelihood
    config.vae.likelihood = "logistic"  # discretised; or gaussian, dequantised

    config.latent = ConfigDict()  # latent diffusion
    config.latent.encoder = ""  # run(workdir=DIR) of family=vae, diffusers(path=DIR), patches(side=2); '' for pixels
    config.latent.mean = ()  # of each channel; () is measured on the training images when the training starts
    config.latent.std = ()
    config.latent.digest = ""  # hash of the encoder's parameters, measured with them; others are then refused; '': any

    config.gan = ConfigDict()  # of family=gan
    config.gan.gamma = 1.0  # weight of the gradient penalties R1 and R2; what suits rises with the number of pixels

    config.mesh = ConfigDict()  # sizes of the axes over which devices are laid; -1 is what is left (docs/pods.md)
    config.mesh.data = -1  # copies of the parameters; the batch is split
    config.mesh.fsdp = 1  # the batch is split, and so are large parameters, averages and optimiser state
    config.mesh.tensor = 1  # attention heads and wide layers are split; the batch is not

    config.optim = ConfigDict()
    config.optim.name = "adam"  # adamw; or adafactor, factored, of optax's own b1, b2 and eps
    config.optim.lr = 2e-4
    config.optim.warmup = 5000  # steps of linear rise from 0
    config.optim.decay_steps = 0  # > 0: cosine from the peak to 0, ending at this step
    config.optim.root_from = 0  # > 0: the rate falls with the root of time from this step on (EDM2)
    config.optim.b1 = 0.9
    config.optim.b2 = 0.999
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.0
    config.optim.clip = 1.0  # global norm of the whole gradient; 0 for none
    config.optim.clip_each = False  # clip each micro-batch's share to its share of the norm (DDPM's replicas)
    config.optim.accumulate = 1  # micro-batches per step
    config.optim.max_skipped = 50  # non-finite gradients in a row that stop the run

    config.ema = ConfigDict()
    config.ema.decays = (0.9999,)  # one average for each, named by its decay; the first of all is the default
    config.ema.warmup = True  # decay = min(decay, (1 + n) / (10 + n)) after n updates
    config.ema.ramp = 0.0  # > 0, instead of warmup: the half-life is at most this share of the updates made (EDM)
    config.ema.sigma_rels = ()  # beside them averages by a power of time of these widths, 0 to 0.2887: 'power_0.05'
    config.ema.snapshot_every = 0  # > 0: those are kept for good, for averages of other widths: tools/posthoc_ema.py

    config.train = ConfigDict()
    config.train.steps = 800_000
    config.train.batch_size = 128  # over all devices and hosts

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 5000
    config.checkpoint.keep = 2  # the newest ones
    config.checkpoint.keep_every = 0  # and, for good, those at multiples of this

    config.log = ConfigDict()
    config.log.every = 100
    config.log.samples_every = 5000  # a grid of samples
    config.log.validation_every = 5000  # validation loss
    config.log.wandb = ""  # a project of Weights & Biases that gets the metrics too; needs wandb
    config.log.profile_from = 0  # > 0: trace this and the next 5 steps into the workdir's profile/

    config.sampling = ConfigDict()
    config.sampling.sampler = "ddim(eta=0.0)"  # family=autoregressive: 'tokens(temperature=1.0, top_p=1.0)'
    config.sampling.steps = 50
    config.sampling.grid = "trailing"  # uniform, leading, quadratic, karras(rho=7.0), logsnr, given(times=(1.0, 0.0))
    config.sampling.guidance = config_dict.placeholder(float)  # none: one pass; 1 is the conditional prediction
    config.sampling.guidance_interval = ()  # (low, high) of sigma / alpha: one pass outside it
    config.sampling.guidance_channels = 0  # > 0: the first of them alone are guided (DiT's code: 3 of 4)
    config.sampling.guidance_rescale = 0.0  # share of the way back to the conditional's standard deviation
    config.sampling.threshold = "static"  # none, static, dynamic(quantile=0.995)
    config.sampling.aug_level = 0.0  # super-resolution: noise on the smaller image, in [0, 1]
    config.sampling.batch_size = 64
    config.sampling.grid_images = 64  # in the grids made while training

    config.evaluation = ConfigDict()
    # And 'small_images' (sets that fit in memory), 'fid' and its kin, 'fd' (other features), 'likelihood_vlb' and
    # 'likelihood_ode' (bits/dim), of other families 'likelihood'
    config.evaluation.evaluators = ("validation_loss",)
    config.evaluation.validation_draws = 4  # noise draws per held-out image, stratified over t
    config.evaluation.validation_images = 2048  # at most
    config.evaluation.samples = 1000  # images drawn; FIDs are published of 50000
    config.evaluation.labels = "training"  # of the samples: in the training set's proportions, or 'balanced'
    config.evaluation.keep_samples = False  # leave the drawn parts on disk when the numbers are written
    config.evaluation.inception = ""  # fid: pt_inception-2015-12-05-6726825d.pth (docs/evaluation.md)
    config.evaluation.tower = ""  # fd: a Hugging Face folder of DINOv2 or CLIP
    config.evaluation.clip = ""  # clip_score: a Hugging Face folder of CLIP
    config.evaluation.prompts = ""  # of text models: a file as --prompts takes (DrawBench's), or COCO's captions, .json
    config.evaluation.batch_size = 64  # of the networks that judge
    config.evaluation.reference = ""  # file of the reference's statistics, made if absent; '': in the workdir
    config.evaluation.reference_split = "train"
    config.evaluation.reference_images = 0  # at most; 0: the whole split
    config.evaluation.likelihood_images = 256  # held-out ones, at most
    config.evaluation.likelihood_steps = 200  # of the ODE, or strata of a continuous bound; a table takes all levels
    config.evaluation.sweep_guidance = ()  # guidance weights and numbers of steps to judge samples at, every pair
    config.evaluation.sweep_steps = ()
    config.evaluation.pareto = ("inception_score", "fid")  # the two numbers drawn against each other of a sweep
    config.evaluation.best = ""  # a number, 'fid': the weights with the best one are kept, as --ema=best
    return config


def words(arg, **defaults):
    """'300m,tiny,name=cifar10' -> the defaults with those set: a bare word to True, key=value to its value.

    Returns a ConfigDict. Raises ValueError for a word that is not among the defaults, with the choices.
    """
    chosen = ConfigDict(defaults)
    for word in filter(None, (arg or "").split(",")):
        key, separator, value = word.partition("=")
        if key not in defaults:
            raise ValueError(f"config word {key!r} is unknown; choose from {', '.join(sorted(defaults))}")
        kind = type(defaults[key])
        if (kind is bool) == bool(separator):
            raise ValueError(f"config word {key!r} is used as {key + '=VALUE' if separator == '' else key!r}")
        chosen[key] = True if kind is bool else value if kind is str else whole(key, value)
    return chosen


def whole(word, value):
    """'64' -> 64. Raises ValueError for anything but digits."""
    if not value.isdecimal():
        raise ValueError(f"config word {word!r}={value!r}: give a whole number")
    return int(value)


def sides(size):
    """(height, width) of a word '64' or '96x64'."""
    height, _, width = size.partition("x")
    return whole("size", height), whole("size", width or height)


def one_of(word, names, default):
    """Which of these bare words is given, or the default. Raises ValueError where more than one is."""
    given = [name for name in names if word[name]]
    if len(given) > 1:
        raise ValueError(f"config words {' and '.join(given)} exclude each other: give one of {', '.join(names)}")
    return given[0] if given else default


def images(config, size, channels=3, classes=0):
    """Images of size '64' or '96x64' (height x width), conditioned on labels where there are classes.

    Attention stands at the first level of height 16 or below.
    """
    height, width = sides(size)
    config.data.update(shape=(height, width, channels), classes=classes)
    config.task.update(flip=True)
    if classes:
        config.task.update(name="class", drop=0.1)
    sizes = [height // 2**level for level in range(len(config.model.multipliers))]
    config.model.attention = (next((side for side in sizes if side <= 16), sizes[-1]),)


def stages(**workdirs):
    """A cascade: the workdir of each stage's training by the stage's name, and how it samples.

    Stages follow each other by the size of their images. What is left unset is as the stage's own config says.
    """
    config = ConfigDict({"stages": {}})
    for name, workdir in workdirs.items():
        stage = ConfigDict({"workdir": workdir})
        stage.checkpoint = config_dict.placeholder(int)  # the latest
        stage.ema = config_dict.placeholder(str)  # the config's first average
        for key in ("sampler", "grid", "threshold"):  # the rest as in `sampling` above
            stage[key] = config_dict.placeholder(str)
        for key in ("guidance", "guidance_rescale", "aug_level"):
            stage[key] = config_dict.placeholder(float)
        for key in ("steps", "batch_size"):
            stage[key] = config_dict.placeholder(int)
        config.stages[name] = stage
    return config


def tiny(config):
    """The same recipe on two small levels: a step compiles in seconds, for tests and for trying a change.

    Without a data path it runs on scikit-learn's digits, resized, so that nothing needs to be downloaded. Text goes
    through a small encoder of bytes, whatever the recipe's.
    """
    side = min(8, config.data.shape[0])
    config.data.shape = (side, side, config.data.shape[2])
    config.model.dtype = "float32"
    if config.latent.encoder:
        tiny_latents(config)
    if config.family == "diffusion":
        tiny_network(config.model, side // (2 if config.latent.encoder else 1))
        if not config.distill.method:  # which says how many
            config.sampling.steps = 2
    else:
        config.model.update(TINY[config.family])
    if config.task.low_size:
        config.task.update(low_size=4, crop=min(config.task.crop, 4))
    config.text.update(encoder="bytes(length=16, width=16, layers=1, heads=2)", embeddings="")
    config.optim.update(warmup=min(config.optim.warmup, 1), decay_steps=0, accumulate=1)
    config.train.update(batch_size=8, steps=2)
    config.checkpoint.every = config.log.samples_every = config.log.validation_every = 2
    config.log.every = 1
    config.sampling.update(batch_size=8, grid_images=8)
    config.evaluation.update(validation_images=16, validation_draws=1, samples=16)
    if not config.data.path:
        config.data.update(name="digits", dataset="", train_split="train", eval_split="test", preprocess="crop")
        config.data.classes = 10 if config.data.classes else 0
    return config


def tiny_latents(config):
    channels = config.data.shape[2]
    config.latent.encoder = f"patches(side=2, channels={channels})"
    config.latent.update(mean=(0.0,) * 4 * channels, std=(0.5,) * 4 * channels)


def adm64(model, attention=(32, 16, 8)):
    """ADM's network for 64 pixels (Dhariwal and Nichol 2021), which later recipes took over."""
    model.update(channels=192, multipliers=(1, 2, 3, 4), blocks=3, attention=attention, head_channels=64, dropout=0.1)
    model.update(scale_shift=True, resample="block", convention="adm", dtype="bfloat16")


def summed_eps(shape):
    """Adam's epsilon where the source's loss is a sum over pixels: it's a mean here, which to Adam changes no more."""
    height, width, channels = shape
    return 1e-8 / (height * width * channels)


def tiny_network(model, side):
    """The same network for images of this side, on two levels, or of two transformer blocks."""
    model.channels = 32
    if model.name == "dit":
        model.update(blocks=2, num_heads=4, patch=2)
    elif model.name == "u_vit":
        model.update(multipliers=(1, 2), blocks=1, middle=2, num_heads=4, patch=1)
    elif model.level_blocks:
        model.update(multipliers=(1, 2), level_blocks=(1, 1), num_heads=2)
        model.attention, model.cross_attention = (
            (2,) if sizes else () for sizes in (model.attention, model.cross_attention)
        )
    else:
        attention = (side // 2,) if model.attention else ()
        model.update(multipliers=(1, 2), blocks=1, attention=attention)
        model.head_channels = min(model.head_channels, 16)


# The networks of the other families.
TINY = {
    "vae": dict(channels=8, multipliers=(1, 2), blocks=1, groups=4),
    "gan": dict(channels=8, multipliers=(1, 2), blocks=1),
    "autoregressive": dict(channels=16, blocks=1, num_heads=2),
}
