"""The same work in PyTorch: benchmarks.run starts this with the Python of the peers' environment.

Reads a line of JSON a request and answers with one: {"ready": parameters} once a row is built and warmed up, the
seconds of a call to "go", or {"error": ..} where something lacks. It imports nothing of this project.
"""

import json
import os
import sys
import time

import torch
from diffusers import DDIMScheduler, UNet2DModel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WARM_UP = 2  # calls before anything is timed

# diffusers' own network in the shapes of configs/digits.py, cifar10.py and imagenet64.py
NETWORKS = {
    "digits": dict(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 64), layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, attention_head_dim=16, num_class_embeds=11,
    ),
    "cifar10": dict(
        sample_size=32, block_out_channels=(128, 256, 256, 256), layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_eps=1e-6, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, attention_head_dim=None, dropout=0.1,
    ),
    "imagenet64": dict(
        sample_size=64, out_channels=6, block_out_channels=(192, 384, 576, 768), layers_per_block=3,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift",
        attention_head_dim=64, dropout=0.1, num_class_embeds=1000,
    ),
}  # fmt: skip


def network(name: str, compiled: bool):
    """(network, its compiled self or itself, images of a batch -> keyword arguments)."""
    torch.manual_seed(0)
    net = UNet2DModel(**NETWORKS[name]).to(DEVICE)
    if DEVICE == "cuda":
        net = net.to(memory_format=torch.channels_last)
    classes = NETWORKS[name].get("num_class_embeds")

    def given(n):
        return {"class_labels": torch.arange(n, device=DEVICE) % classes} if classes else {}

    return net, torch.compile(net) if compiled else net, given


def images(name: str, n: int):
    shape = NETWORKS[name].get("in_channels", 3), NETWORKS[name]["sample_size"], NETWORKS[name]["sample_size"]
    return torch.rand(n, *shape, device=DEVICE) * 2 - 1


def training(name: str, n: int, compiled: bool):
    """A train step as ours: noise, loss, gradient, clipping, Adam, an average of the parameters."""
    net, call, given = network(name, compiled)
    params = [p for p in net.parameters()]
    average = [p.detach().clone() for p in params]
    optimiser = torch.optim.Adam(params, 2e-4, fused=DEVICE == "cuda")
    x0, cond = images(name, n), given(n)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=DEVICE), 0)

    def step():
        t = torch.randint(0, 1000, (n,), device=DEVICE)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        eps = torch.randn_like(x0)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            out = call(a.sqrt() * x0 + (1 - a).sqrt() * eps, t, **cond).sample
        loss = torch.nn.functional.mse_loss(out[:, : x0.shape[1]].float(), eps)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        torch._foreach_lerp_(average, params, 1e-4)

    return net.train(), step


def sampling(name: str, n: int, compiled: bool):
    """DDIM in 50 steps."""
    net, call, given = network(name, compiled)
    net.eval()
    scheduler, cond = DDIMScheduler(clip_sample=True, timestep_spacing="trailing"), given(n)
    scheduler.set_timesteps(50)

    @torch.no_grad()
    def draw():
        x = torch.randn_like(images(name, n))
        for t in scheduler.timesteps:
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                out = call(x, t.to(DEVICE), **cond).sample
            x = scheduler.step(out[:, : x.shape[1]].float(), t, x).prev_sample

    return net, draw


WORK = {"train": training, "sample": sampling}


def timed(call) -> float:
    began = time.perf_counter()
    call()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def answer(request: dict, built: dict):
    """What a request asks for; `built` holds what the rows so far have made."""
    if "build" in request:
        net, built["call"] = WORK[request["build"]](request["network"], request["batch"], request["compiled"])
        for _ in range(WARM_UP):
            timed(built["call"])
        return {"ready": sum(p.numel() for p in net.parameters())}
    return {"seconds": timed(built["call"])}


def main():
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print; answers go by a line of their own
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    versions = {"torch": torch.__version__, "device": DEVICE}
    print(json.dumps(versions), file=out, flush=True)
    built = {}
    for line in sys.stdin:
        try:
            said = answer(json.loads(line), built)
        except Exception as error:  # whatever lacks there (a compiler, memory) is told, and the row goes without
            said = {"error": (str(error).strip().splitlines() or [repr(error)])[0][:200]}
        print(json.dumps(said), file=out, flush=True)


if __name__ == "__main__":
    main()
