"""Holds models/huggingface.py and the T5 folder reader to transformers and torch, on folders that these write.

    pip install -r requirements-text.txt torch==2.13.0 transformers==5.23.0
    PYTHONPATH=.:tests/models python tests/models/check_huggingface.py

CLIP's text encoder, BERT and BART's encoder on random weights: each prompt alone and unpadded, straight through
transformers, against the padded batch here. Then T5 from sharded safetensors and from a converted .bin. Raises where
one is further off than 1e-5.
"""

import pathlib
import tempfile

import jax
import numpy as np
import small_t5
import torch
import transformers
from transformers import BartConfig, BertConfig, CLIPConfig, T5Config

from models.text import TEXT_ENCODERS, batch_of
from tools.convert_torch import convert

PROMPTS = ["a cat", "", "seven small boats on the sea at night", "a cat in the snow"]
WORDS = sorted({word for prompt in PROMPTS for word in prompt.split()})


def write_tokenizer(folder: str) -> None:
    """Whole words, [CLS] before and [SEP] after."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)


def folders():
    """name -> (model to save, its text encoder)."""
    torch.manual_seed(0)
    text = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "max_position_embeddings": 16, "eos_token_id": 3, "projection_dim": 16}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = transformers.CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    yield "clip", clip, transformers.CLIPTextModel
    bert = {key: text[key] for key in list(text)[:6]}
    yield "bert", transformers.BertModel(BertConfig(**bert)), transformers.BertModel
    sizes = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 40}
    bart = BartConfig(**sizes, **heads, max_position_embeddings=16)
    yield "bart", transformers.BartModel(bart), transformers.BartModel


def check(name: str, theirs: np.ndarray, ours: np.ndarray) -> None:
    gap = np.abs(theirs - ours).max()
    print(f"{name}: {gap:.1e}, deviation {theirs.std():.2f}")
    assert gap < 1e-5


def check_host_encoder(name, model, kind, folder):
    model.save_pretrained(folder)
    write_tokenizer(folder)
    encoder = TEXT_ENCODERS["hf"](path=folder, length=8)
    part, cut = batch_of(encoder, PROMPTS)
    assert cut.tolist() == [False, False, True, False] and part["text"].shape == (4, 8, encoder.width)
    direct, tokenizer = kind.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    direct = direct.get_encoder() if direct.config.is_encoder_decoder else direct
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, truncation=True, max_length=8, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            alone = direct(ids).last_hidden_state[0].numpy()
        assert part["text_mask"][i].sum() == len(alone) and not part["text"][i, len(alone) :].any()
        check(f"{name} {prompt!r}", alone, part["text"][i, : len(alone)])


def check_t5(folder):
    torch.manual_seed(0)
    config = small_t5.config(small_t5.CASES["deep"][0])
    model = transformers.T5ForConditionalGeneration(T5Config(**config, tie_word_embeddings=False)).eval()
    model.save_pretrained(folder / "sharded", max_shard_size="20KB")
    model.config.save_pretrained(folder / "bin")
    torch.save(model.state_dict(), folder / "bin" / "pytorch_model.bin")
    convert(str(folder / "bin"), str(folder / "converted"))
    assert len(list((folder / "sharded").glob("*.safetensors"))) > 2
    tokens, mask = small_t5.inputs("deep")
    with torch.no_grad():
        theirs = model.encoder(torch.from_numpy(tokens), torch.from_numpy(mask).long()).last_hidden_state.numpy()
    for name in ("sharded", "converted"):
        encoder = TEXT_ENCODERS["t5"](path=str(folder / name), length=1, dtype="float32")
        ours = np.asarray(jax.jit(encoder.encode)(encoder.load(), tokens, mask))
        check(f"t5 {name}", theirs * mask[..., None], ours)


def main() -> None:
    for name, model, kind in folders():
        with tempfile.TemporaryDirectory() as folder:
            check_host_encoder(name, model, kind, folder)
    with tempfile.TemporaryDirectory() as folder:
        check_t5(pathlib.Path(folder))


if __name__ == "__main__":
    main()
