"""Any text encoder of a Hugging Face folder, through transformers and torch, on the host: see models/text.py.

The folder's safetensors are read, no pickle, and none of its code is run.
"""

import functools
from collections.abc import Callable

import numpy as np

from models.tokenizers import Tokenise, Tokens, readable

# Where the text encoder is a part of the model, transformers' class for that part.
TEXT_PARTS = {
    "clip": "CLIPTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
WIDTHS = ("d_model", "hidden_size")


def width_of(config: dict, length: int) -> int:
    """d of the last hidden state; ValueError where config.json does not say, or allows fewer than `length` tokens."""
    section = config.get("text_config", config)
    width = next((section[key] for key in WIDTHS if key in section), None)
    if width is None:
        raise ValueError(f"config.json of a {config.get('model_type')!r} gives none of {', '.join(WIDTHS)}")
    most = section.get("max_position_embeddings", length)
    if length > most:
        raise ValueError(f"length={length} is more than the {most} positions of this encoder")
    return width


def _transformers():
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise ValueError(f"text encoder hf needs {error.name}: pip install torch transformers") from error
    return transformers


def tokenizer(folder: str, length: int) -> Tokenise:
    """The folder's own tokenizer, with its own special tokens; padding on the right."""

    @functools.cache
    def loaded():
        found = _transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="right")
        found.pad_token = found.pad_token or found.eos_token
        return found

    def tokenise(prompts):
        prompts = [readable(prompt) for prompt in prompts]
        whole = loaded()(prompts)["input_ids"]
        out = loaded()(prompts, padding="max_length", truncation=True, max_length=length, return_attention_mask=True)
        cut = np.array([len(row) > length for row in whole], bool)
        return Tokens(np.array(out["input_ids"], np.int32), np.array(out["attention_mask"], bool), cut)

    return tokenise


def encode(folder: str, model_type: str) -> Callable:
    """encode(None, tokens [b l], mask [b l]) -> float32 [b l d], the last hidden state, 0 where mask is False."""

    @functools.cache
    def loaded():
        name = TEXT_PARTS.get(model_type, "AutoModel")
        model = getattr(_transformers(), name).from_pretrained(folder, local_files_only=True, use_safetensors=True)
        model = model.get_encoder() if model.config.is_encoder_decoder and name == "AutoModel" else model
        return model.eval().to(_device())

    def last_hidden_state(params, tokens, mask):
        import torch

        model = loaded()
        with torch.no_grad():
            inputs = (torch.from_numpy(np.array(part, np.int64)).to(model.device) for part in (tokens, mask))
            out = model(**dict(zip(("input_ids", "attention_mask"), inputs))).last_hidden_state
        return np.where(np.asarray(mask)[..., None], out.float().cpu().numpy(), np.float32(0))

    return last_hidden_state


def _device():
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
