"""Makes golden/spiece: a small SentencePiece model with T5's special tokens, and transformers' tokens of PROMPTS.

pip install -r requirements-text.txt transformers==5.23.0 tokenizers protobuf
PYTHONPATH=. python tests/models/make_golden_tokens.py
"""

import itertools
import json
import pathlib

import sentencepiece
from transformers import T5Tokenizer

FOLDER = pathlib.Path(__file__).parent / "golden" / "spiece"
THINGS = ["a cat", "the red ball", "seven small boats", "an old house", "Zwölf Äpfel", "ein Baum", "猫", "une fleur"]
PLACES = ["on the table", "in the snow", "under a tree", "by the sea at night", "im Garten", "à Paris", "庭で"]
PROMPTS = [
    "",
    "a cat in the snow",
    "Seven RED boats, by the sea!",
    "  two  spaces ",
    "zwölf Äpfel im Garten",
    "猫が庭で",
    "emoji \U0001f408‍⬛ unknown",
    "under the old table " * 8,
]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=map(" ".join, itertools.product(THINGS, PLACES)),
        model_prefix=str(FOLDER / "spiece"),
        vocab_size=150,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="identity",  # the others carry tables of 200 kB
        hard_vocab_limit=False,
    )
    (FOLDER / "spiece.vocab").unlink()
    (FOLDER / "spiece.model").chmod(0o644)
    tokenizer = T5Tokenizer.from_pretrained(str(FOLDER), extra_ids=0)
    length = 16
    rows = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=length)
    golden = {"length": length, "tokens": rows["input_ids"], "mask": rows["attention_mask"], "prompts": PROMPTS}
    golden["cut"] = [len(row) > length for row in tokenizer(PROMPTS)["input_ids"]]
    (FOLDER / "tokens.json").write_text(json.dumps(golden, indent=None) + "\n")


if __name__ == "__main__":
    main()
