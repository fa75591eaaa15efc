"""What samples are given, from prompts of every kind."""

from types import SimpleNamespace

import numpy as np
import pytest

import conditions
from configs import digits_text
from experiment import build_text
from input_pipeline import digits


def flags(**given):
    return SimpleNamespace(**{"prompt": None, "prompts": None, "label": None, "num": None} | given)


def asked(n=4, **given):
    config = digits_text.get_config("tiny")
    experiment = SimpleNamespace(text=build_text(config))
    return conditions.of_flags(experiment, config, None, flags(**given), np.arange(n))


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_holds_one_prompt_a_line_and_blank_ones_are_left_out(tmp_path):
    path = written(tmp_path, "prompts.txt", "a seven\n\n  ein Ei \n七 🐈\n")
    assert [prompt.text for prompt in conditions.read_prompts(path)] == ["a seven", "ein Ei", "七 🐈"]
    assert conditions.number(flags(prompts=path)) == 3 and conditions.number(flags(prompts=path, num=5)) == 5


def test_a_sheet_has_categories_and_prompts_with_commas(tmp_path):
    path = written(tmp_path, "sheet.csv", 'Prompts,Category\n"a seven, a one",Counting\na red cat,Colors\n')
    assert conditions.read_prompts(path) == [("a seven, a one", "Counting"), ("a red cat", "Colors")]


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("p.txt", "\n \n", "holds no prompt"),
        ("p.csv", "Text,Kind\na,b\n", r"columns \['Text', 'Kind'\]; it needs Prompts"),
        ("p.csv", "", "columns None"),
    ],
)
def test_files_without_prompts_are_refused(tmp_path, name, text, words):
    with pytest.raises(ValueError, match=words) as refusal:
        conditions.read_prompts(written(tmp_path, name, text))
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="--prompts=.*none.txt cannot be read"):
        conditions.read_prompts(str(tmp_path / "none.txt"))


def test_image_i_has_prompt_i_modulo_their_number(tmp_path):
    found = asked(5, prompts=written(tmp_path, "p.txt", "a seven\nthe digit 3\n"))
    assert [prompt.text for prompt in found.prompts] == ["a seven", "the digit 3"] * 2 + ["a seven"]
    tokens = found.given["tokens"]
    assert np.array_equal(tokens[0], tokens[2]) and not np.array_equal(tokens[0], tokens[1])
    assert found.columns(0) == 2 and found.facts()["prompts"][1] == {"text": "the digit 3", "category": ""}


def test_a_prompt_past_the_limit_is_cut_and_said(caplog):
    found = asked(1, prompt="a very long way to ask for a seven")
    assert found.cut == ("a very long way to ask for a seven",) and found.given["text_mask"].all()
    assert asked(1, prompt="a seven").cut == ()


def test_the_empty_prompt_is_a_text_of_its_own_and_not_the_absence_of_one():
    found = asked(1, prompt="")
    assert found.given["text_mask"].sum() == 1 and [prompt.text for prompt in found.prompts] == [""]


@pytest.mark.parametrize(
    "given, words",
    [
        ({}, "give --prompt='..', or --prompts=FILE"),
        ({"label": "7", "prompt": "a"}, "--label=7: this model takes prompts"),
        ({"prompt": "a", "prompts": "b"}, "give one of the two"),
    ],
)
def test_flags_that_say_nothing_to_a_model_of_text_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        asked(**given)


def test_prompts_say_nothing_to_a_model_without_text():
    config = digits_text.get_config("tiny")
    config.task.name = "class"
    with pytest.raises(ValueError, match="takes no text .task.name=class"):
        conditions.of_flags(SimpleNamespace(text=None), config, None, flags(prompt="a seven"), np.arange(2))


def test_digits_have_a_caption_in_every_wording_and_none_in_those_that_are_kept():
    batch = digits.build("test", captions=True).read(np.arange(297))
    for label, captions in zip(batch["label"], batch["captions"]):
        assert len(set(captions)) == len(digits.WORDINGS)
        assert all(digits.NAMES[label] in caption or str(label) in caption for caption in captions)
        assert not set(captions) & {digits.prompt(wording, label) for wording in digits.HELD_OUT_WORDINGS}
    assert digits.prompt(digits.WORDINGS[0], 7) == "a seven" and digits.prompt(digits.WORDINGS[0], 8) == "an eight"
