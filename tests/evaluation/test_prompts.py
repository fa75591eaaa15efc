"""CLIP scores of features that are known, COCO's captions, and sheets of images by prompt."""

import json

import numpy as np
import pytest
from PIL import Image

from evaluation.clip_score import clip_score, tokenizer
from evaluation.images import fitted
from evaluation.prompts import coco_captions, sheet


def test_a_score_is_the_mean_cosine_whatever_the_lengths():
    texts = np.eye(4)[:3]
    images = np.array([[3, 4, 0, 0], [0, 2, 0, 0], [0, 0, -1, 0.0]])
    found = dict(clip_score(images, texts, {"network": "x"}))
    assert found["clip_score"].value == pytest.approx((0.6 + 1 - 1) / 3)
    assert found["clip_score/unrelated"].value == pytest.approx((0.8 + 0 + 0) / 3)
    assert found["clip_score"].settings["n"] == 3 and found["clip_score"].settings["network"] == "x"


def test_a_score_without_pairs_is_refused():
    with pytest.raises(ValueError, match=r"of pairs, two or more: got \[3, 4\] and \[2, 4\]"):
        next(clip_score(np.ones((3, 4)), np.ones((2, 4)), {}))


def test_images_are_fitted_as_pillow_does():
    image = np.random.default_rng(0).integers(0, 256, (1, 30, 20, 3), np.uint8)
    whole = np.asarray(Image.fromarray(image[0]).resize((10, 15), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(fitted(image, 10)[0], whole[2:12])
    square = image[:, :20]
    np.testing.assert_array_equal(fitted(square, 20), square)


def captions(tmp_path, n=50):
    path = tmp_path / "captions.json"
    found = [{"id": (7 * i) % n, "image_id": i, "caption": f" caption {(7 * i) % n}\n"} for i in range(n)]
    path.write_text(json.dumps({"images": [], "annotations": found}))
    return path


def test_captions_are_drawn_by_the_seed_without_repetition(tmp_path):
    path = captions(tmp_path)
    all_of_them = coco_captions(path, 50)
    assert sorted(all_of_them) == sorted(f"caption {i}" for i in range(50))
    assert coco_captions(path, 20) == all_of_them[:20] != coco_captions(path, 20, seed=1)
    order = np.random.RandomState(0).permutation(50)
    assert all_of_them == [f"caption {i}" for i in order]


def test_other_files_and_too_many_captions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has 50 captions, and 51 were asked for"):
        coco_captions(captions(tmp_path), 51)
    for text in ("{", "[]", '{"annotations": [{"caption": "a"}]}'):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ValueError, match="b.json is no COCO captions file"):
            coco_captions(tmp_path / "b.json", 1)


def test_a_sheet_has_a_section_a_category_and_a_picture_a_prompt():
    prompts = [("a <cat>", "Colors"), ("two dogs", "Counting"), ("red", "Colors")]
    found = sheet(prompts, np.zeros((3, 4, 8, 8, 3), np.uint8))
    assert [heading for heading, _ in found] == ["Colors", "Counting"]
    assert found[0][1].count("<img") == 2 and "a &lt;cat&gt;" in found[0][1]
    with pytest.raises(ValueError, match="a sheet of 3 prompts takes images"):
        sheet(prompts, np.zeros((2, 4, 8, 8, 3), np.uint8))


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match="tokenizer.json is missing"):
        tokenizer(str(tmp_path), 8)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        tokenizer(str(tmp_path), 8)
    model = tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "red": 2, "cat": 3, "?": 4}, unk_token="?")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    made.save(str(tmp_path / "tokenizer.json"))
    found = tokenizer(str(tmp_path), 5)(["red cat", "cat cat cat cat cat cat"])
    np.testing.assert_array_equal(found, [[0, 2, 3, 1, 1], [0, 3, 3, 3, 1]])
