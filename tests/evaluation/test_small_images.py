"""The judgement of small images, on scikit-learn's digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from evaluation.small_images import ImageSet, beside_halvings, judge, matched, quota


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x = np.round(x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    parts = train_test_split(x, y, test_size=297, stratify=y, random_state=0)
    return ImageSet(parts[0], parts[2]), ImageSet(parts[1], parts[3])


def values(results):
    return {name: result.value for name, result in results}


def take(images, index):
    return ImageSet(images.images[index], images.labels[index])


def test_copies_of_training_images_pass_all_but_the_neighbours(digits):
    train, heldout = digits
    found = values(judge(take(train, np.arange(1000)), train, heldout))
    assert found["svc/heldout_accuracy"] >= 0.98
    assert found["svc/agreement"] >= 0.98
    assert found["frechet/ratio"] < 1.1
    assert found["neighbours/samples"] == 0
    assert 0.7 < found["neighbours/heldout"] < 0.95


def test_real_images_never_seen_pass_everything(digits):
    train, heldout = digits
    new, train = take(train, np.arange(700)), take(train, np.arange(700, 1500))
    found = values(judge(new, train, heldout))
    assert found["svc/agreement"] > 0.97
    assert found["frechet/ratio"] == pytest.approx(0.9, abs=0.2)
    assert found["neighbours/samples"] == pytest.approx(found["neighbours/heldout"], rel=0.05)


def test_wrong_labels_and_lost_variety_are_seen(digits):
    train, heldout = digits
    samples = take(train, np.arange(1000))
    wrong = values(judge(samples._replace(labels=(samples.labels + 1) % 10), train, heldout))
    assert wrong["svc/agreement"] < 0.02
    _, one_of_each = np.unique(train.labels, return_index=True)
    collapsed = values(judge(take(train, np.tile(one_of_each, 100)), train, heldout))
    assert collapsed["svc/agreement"] > 0.9 and collapsed["frechet/ratio"] > 10


def test_numbers_repeat_and_say_what_they_depend_on(digits):
    train, heldout = digits
    samples = take(train, np.arange(1200))
    first, second = (dict(judge(samples, train, heldout, halvings=3)) for _ in range(2))
    assert {name: r.as_dict() for name, r in first.items()} == {n: r.as_dict() for n, r in second.items()}
    settings = first["frechet/samples"].settings
    assert (settings["n"], settings["halvings"], settings["dimensions"]) == (898, 3, 64)
    assert first["svc/agreement"].settings["n"] == 1200


@pytest.mark.parametrize("label", [None, 0])
def test_images_without_labels_to_tell_apart_are_judged_without_the_classifier(digits, label):
    labels = [None if label is None else np.zeros(len(images.images), int) for images in digits]
    train, heldout = (part._replace(labels=k) for part, k in zip(digits, labels, strict=True))
    samples = ImageSet(train.images[:500], None if label is None else train.labels[:500])
    found = values(judge(samples, train, heldout, halvings=2))
    assert not any(name.startswith("svc") for name in found)
    assert found.keys() >= {"frechet/ratio", "neighbours/samples"}


@pytest.mark.parametrize("n", [0, 1, 7, 898, 1797, 5000])
def test_a_quota_is_proportional_to_within_one_and_sums_to_n(n):
    counts = np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180, 0])
    shares = quota(counts, n)
    assert shares.sum() == n and shares[-1] == 0
    assert (np.abs(shares - n * counts / counts.sum()) < 1).all()


def test_matched_samples_have_the_real_label_counts(digits):
    train, heldout = digits
    shares = quota(np.bincount(train.labels), 1000)
    samples = ImageSet(np.zeros((1000, 8, 8, 1), np.uint8), np.repeat(np.arange(10), shares))
    chosen = matched(samples, train, 898)
    assert len(chosen) == len(set(chosen)) == 898
    expected = quota(np.bincount(train.labels), 898)
    np.testing.assert_array_equal(np.bincount(samples.labels[chosen]), expected)


def test_scarce_labels_make_all_sides_smaller_and_missing_ones_are_refused(digits):
    train, heldout = digits
    few = np.concatenate([np.flatnonzero(train.labels != 3), np.flatnonzero(train.labels == 3)[:12]])
    scarce = dict(beside_halvings(take(train, few), train, halvings=2))
    assert 115 <= scarce["frechet/real"].settings["n"] <= 125
    with pytest.raises(ValueError, match=r"too few of label 3 \(0\)"):
        matched(take(train, few[:-12]), train, 898)


def test_samples_of_another_resolution_are_refused_in_one_line(digits):
    train, heldout = digits
    large = ImageSet(np.zeros((4, 16, 16, 1), np.uint8))
    with pytest.raises(ValueError, match=r"^samples are \[16, 16, 1\], training images \[8, 8, 1\].*$"):
        list(judge(large, train, heldout))
