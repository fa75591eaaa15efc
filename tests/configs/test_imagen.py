"""Imagen's configs as the paper has them: their networks' sizes, their optimisers, what follows what."""

import json

import jax
import pytest

from configs import imagen_base64, imagen_sr256, imagen_sr1024
from experiment import build

TRUNKS = {"base64": 2_097_572_867, "sr256": 592_980_867, "sr1024": 576_185_219}
TEXT = {"base64": 310_643_712, "sr256": 40_142_848, "sr1024": 48_541_696}
CONFIGS = {"base64": imagen_base64, "sr256": imagen_sr256, "sr1024": imagen_sr1024}


@pytest.fixture
def t5(tmp_path):
    """The folder of T5-XXL v1.1, as far as a network's shape needs it."""
    size = dict(d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, vocab_size=32128)
    more = dict(model_type="t5", feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-6)
    (tmp_path / "config.json").write_text(json.dumps(size | more | dict(relative_attention_num_buckets=32)))
    return f"t5={tmp_path}"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_stages_have_their_sizes_with_the_text_of_t5_xxl_apart(name, t5):
    leaves = jax.tree.leaves_with_path(build(CONFIGS[name].get_config(t5)).abstract.params)
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in leaves}
    text = sum(size for path, size in sizes.items() if text_layer(name, path))
    assert (sum(sizes.values()) - text, text) == (TRUNKS[name], TEXT[name])


def text_layer(name, path):
    return "text" in path or (name == "sr1024" and "attention" in path)  # there all attention is to the text


def test_the_smaller_bases_are_the_papers():
    widths = [imagen_base64.get_config(word).model.channels for word in ("", "1b", "500m", "300m")]
    assert widths == [512, 384, 256, 192]


def test_hyper_parameters_are_the_papers():
    for name, optimiser in {"base64": "adafactor", "sr256": "adam", "sr1024": "adam"}.items():
        config = CONFIGS[name].get_config()
        assert config.optim.name == optimiser and config.optim.weight_decay == 0
        assert (config.optim.lr, config.optim.warmup, config.optim.decay_steps) == (1e-4, 10_000, 0)
        assert (config.train.steps, config.train.batch_size) == (2_500_000, 2048)
        assert (config.diffusion.prediction, config.diffusion.weighting) == ("eps", "simple")
        assert config.task.drop == 0.1 and config.model.dropout == 0
    assert [CONFIGS[name].get_config().diffusion.schedule for name in CONFIGS] == ["cosine", "cosine", "vp"]


def test_each_stage_takes_what_the_one_before_makes():
    base, first, second = (CONFIGS[name].get_config() for name in CONFIGS)
    assert first.task.low_size == base.data.shape[0] and second.task.low_size == first.data.shape[0]
    assert second.task.crop == 256 and not second.model.attention and second.model.cross_attention == (64,)
