"""Other projects' networks on random weights: what theirs answered (make_golden_unets.py), ours answers."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import unet_states

from diffusion import sampling
from diffusion.grids import GRIDS
from diffusion.prediction import PARAMETERISATIONS, denoiser
from diffusion.samplers import SAMPLERS
from diffusion.schedules import SCHEDULES
from models.published import diffusers, edm, guided_diffusion
from models.published.layout import split_qkv

QUICK = {"xla_backend_optimization_level": 0}  # the time is the compiler's
DIFFUSERS, GUIDED = unet_states.DIFFUSERS, unet_states.GUIDED
CASES = [*(f"diffusers_{name}" for name in DIFFUSERS), *(f"guided_{name}" for name in GUIDED), "edm"]


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "unets.npz") as stored:
        return {name: stored[name] for name in stored.files}


@functools.cache
def state(name):
    shapes = json.loads(str(golden()["shapes"]))[name]
    kept = {key: shape for key, shape in shapes.items() if "resample_filter" not in key}
    return unet_states.weights(kept) | {key: np.ones(shapes[key], np.float32) for key in shapes.keys() - kept.keys()}


@functools.cache
def imported(name):
    family, _, which = name.partition("_")
    if family == "diffusers":
        return diffusers.to_unet(state(name), DIFFUSERS[which])
    return guided_diffusion.to_unet(state(name), GUIDED[which]) if which else edm.to_unet(state(name))


@functools.cache
def apply(net):
    return jax.jit(lambda params, *given: net.apply({"params": params}, *given), compiler_options=QUICK)


def inputs(name, net):
    noise_input = np.log(unet_states.SIGMAS) / 4 if name == "edm" else unet_states.TIMES
    cond = {"label": unet_states.LABELS} if net.num_labels else {}
    if name == "guided_upsampler":
        cond["low_res"] = unet_states.images(8, seed=1)
    return unet_states.images(8), noise_input, cond


@pytest.mark.parametrize("name", CASES)
def test_an_imported_network_answers_as_the_original(name):
    net, params = imported(name)
    np.testing.assert_allclose(apply(net)(params, *inputs(name, net)), golden()[name], atol=1e-4)


def test_fifty_steps_of_ddim_stay_with_those_of_diffusers():
    """Its scheduler walks indices 980, 960, ... 0: the leading grid."""
    net, params = imported("diffusers_ddpm")
    schedule = SCHEDULES["linear"]()

    def network(*given):
        return net.apply({"params": params}, *given)

    denoise = denoiser(network, {}, schedule, PARAMETERISATIONS["eps"](schedule))
    times = GRIDS["leading"](schedule, 50)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    x = unet_states.images(8)
    path = jax.jit(lambda x: sampling.trajectory(keys, denoise, SAMPLERS["ddim"](schedule), times, x))(x)
    ours, theirs = np.asarray(path)[[1, 10, 20, 30, 40, 50]], golden()["ddim_path"]
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["diffusers_ddpm", "diffusers_adm"])
def test_what_is_exported_is_what_was_imported(name):
    net, params = imported(name)
    exported = diffusers.to_state(net, params)
    assert exported.keys() == state(name).keys()
    for key, value in state(name).items():
        np.testing.assert_array_equal(exported[key], value)
    again, _ = diffusers.to_unet(exported, diffusers.config_of(net))
    assert again == net


def test_the_older_spelling_of_attention_is_the_same_network():
    spelling = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def older(name):
        return functools.reduce(lambda name, pair: name.replace(*pair), spelling.items(), name)

    old = {older(name): x for name, x in state("diffusers_ddpm").items()}
    assert sum("proj_attn" in key for key in old) == 8
    _, params = diffusers.to_unet(old, unet_states.DDPM)
    jax.tree.map(np.testing.assert_array_equal, params, imported("diffusers_ddpm")[1])


@pytest.mark.parametrize("order", ["new", "legacy", "edm"])
def test_fused_rows_fall_into_query_key_and_value(order):
    heads, per_head = 2, 3
    place = {"new": "qhc", "legacy": "hqc", "edm": "hcq"}[order]
    sizes = [{"q": 3, "h": heads, "c": per_head}[axis] for axis in place]
    rows = np.array(["".join(map(str, digits)) for digits in itertools.product(*map(range, sizes))])
    found = split_qkv({"a.qkv.bias": rows}, lambda channels: heads, order)
    for number, part in enumerate(("query", "key", "value")):
        said = [{axis: int(digit) for axis, digit in zip(place, row)} for row in found[f"a.{part}.bias"]]
        assert [one["q"] for one in said] == [number] * 6
        assert [(one["h"], one["c"]) for one in said] == [(h, c) for h in range(heads) for c in range(per_head)]


def test_the_settings_of_a_command_line_there_are_read():
    text = "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 64 --learn_sigma True"
    text += (
        " --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3 --resblock_updown True"
    )
    text += " --use_new_attention_order True --use_fp16 True --use_scale_shift_norm True --dropout 0.1"
    assert guided_diffusion.settings(text) == guided_diffusion.DEFAULTS | guided_diffusion.FILES["64x64_diffusion"]


BAD = {
    "lacks label_emb.weight": lambda: guided_diffusion.to_unet(
        {name: x for name, x in state("guided_new").items() if name != "label_emb.weight"}, unet_states.NEW
    ),
    "tensors that a network of these settings lacks: label_emb.weight": lambda: guided_diffusion.to_unet(
        state("guided_new"), unet_states.NEW | {"class_cond": False}
    ),
    "does not fit": lambda: guided_diffusion.to_unet(state("guided_new"), unet_states.NEW | {"num_channels": 64}),
    "none of the published files": lambda: guided_diffusion.load("mine.pt"),
    "form --name value": lambda: guided_diffusion.settings("--image_size"),
    "act_fn='mish' cannot be expressed": lambda: diffusers.fields(unet_states.DDPM | {"act_fn": "mish"}),
    "neither of the conventions": lambda: diffusers.fields(unet_states.DDPM | {"freq_shift": 0}),
    "not the tensors of EDM's": lambda: edm.to_unet({"map_layer0.weight": np.zeros((8, 8)), "enc.8x8_conv.weight": 0}),
    "NCSN": lambda: edm.to_unet({"map_noise.freqs": np.zeros(8), "dec.8x8_aux_conv.weight": np.zeros(1)}),
    "has no config.json": lambda: diffusers.load("nowhere"),
}


@pytest.mark.parametrize("said", BAD)
def test_what_does_not_fit_is_one_line(said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")) as error:
        BAD[said]()
    assert "\n" not in str(error.value)
