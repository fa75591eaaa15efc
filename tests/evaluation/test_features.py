"""Statistics of many images, on a network that is quick; their file; and the numbers they give."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evaluation.compare import compare
from evaluation.features import Statistics, extractor, gather
from evaluation.reference import MadeOf, Reference, cached, load
from models.inception import Outputs
from training.sharding import data_mesh

N, SHAPE = 230, (6, 5, 3)
MADE_OF = MadeOf(
    data="noise:0", split="train", n=N, shape=SHAPE, preprocess="crop", resize="none", network="0" * 64, keep=100
)


def network(params, images):
    x = images.astype(jnp.float32) / 255
    flat = x.reshape(len(x), -1)
    return Outputs(flat @ params["pool"], flat @ params["logits"], x[:, :3, :3, 0].reshape(len(x), -1))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(90, width)).astype(np.float32) for name, width in [("pool", 12), ("logits", 7)]}


def noise(n=N, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def statistics(images, extract, **options):
    return gather(lambda start, stop: images[start:stop], len(images), extract, **options)


@pytest.fixture(scope="module")
def extract(params):
    return extractor(network, params, data_mesh(), batch_size=32)


def assert_same(a: Statistics, b: Statistics):
    assert a.pool.count == b.pool.count and type(b.pool.count) is int
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


@pytest.mark.parametrize("batch_size", [1, 24, 512])
@pytest.mark.parametrize("devices", [1, 8])
def test_features_do_not_depend_on_batches_or_devices(params, batch_size, devices):
    images = noise(50)
    found = extractor(network, params, data_mesh(jax.devices()[:devices]), batch_size)(images)
    for ours, direct in zip(found, network(params, images)):
        np.testing.assert_allclose(ours, direct, rtol=1e-5, atol=1e-5)


def test_grey_images_are_repeated_to_three_channels(extract):
    grey = noise(9, shape=(6, 5, 1))
    found, expected = extract(grey), extract(grey.repeat(3, axis=3))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("chunk", [7, 100, 1000])
def test_statistics_equal_those_of_one_pass_over_all_images(extract, chunk):
    images = noise()
    found, features = statistics(images, extract, chunk=chunk, keep=100), extract(images)
    assert found.pool.count == found.spatial.count == N
    np.testing.assert_allclose(found.pool.covariance, np.cov(features.pool, rowvar=False, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(found.spatial.mean, features.spatial.mean(0), rtol=1e-6)
    np.testing.assert_array_equal(found.kept, features.pool[:100])
    assert found.classes.count.sum() == N


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_several_processes_merge_in_any_order_to_the_whole(extract, parts):
    images = noise()
    whole = statistics(images, extract, chunk=30, keep=100)
    shares = [statistics(images, extract, chunk=30, keep=100, part=(p, parts)) for p in range(parts)]
    for order in itertools.permutations(shares):
        assert_same(functools.reduce(Statistics.merge, order), whole)


def test_what_is_kept_stops_growing(extract):
    kept = [statistics(noise(n), extract, chunk=50, keep=60) for n in (40, 100, 200)]
    assert [len(s.kept) for s in kept] == [40, 60, 60]
    sizes = [sum(x.nbytes for x in jax.tree.leaves(s) if hasattr(x, "nbytes")) for s in kept]
    assert sizes[1] == sizes[2]


@pytest.mark.parametrize(
    "images, message",
    [
        (noise().astype(np.float32), r"images must be uint8 \[b h w c\], got float32 .*to_uint8"),
        (noise(shape=(6, 5, 4)), r"images must be uint8 \[b h w 3\] or \[b h w 1\], b >= 1, got \[230, 6, 5, 4\]"),
    ],
)
def test_other_images_are_refused_in_one_line(extract, images, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        statistics(images, extract)


def test_missing_images_and_parts_without_any_are_refused(extract):
    with pytest.raises(ValueError, match="images 0 to 300 were asked for, 230 came"):
        gather(lambda start, stop: noise()[start:stop], 300, extract)
    with pytest.raises(ValueError, match="part 1 of 2 has none of 230 images in chunks of 1000"):
        statistics(noise(), extract, part=(1, 2))


def test_features_that_are_not_finite_are_refused(params):
    broken = extractor(network, {name: x * np.nan for name, x in params.items()}, data_mesh())
    with pytest.raises(ValueError, match="features must be finite"):
        statistics(noise(), broken)


def test_a_reference_is_made_once_and_read_back_to_the_bit(extract, tmp_path):
    path, made = tmp_path / "references" / "noise.npz", []

    def make():
        made.append(1)
        return statistics(noise(), extract, keep=100)

    first, second = (cached(path, MADE_OF, make) for _ in range(2))
    assert len(made) == 1 and first.digest == second.digest and second.made_of == MADE_OF
    jax.tree.map(np.testing.assert_array_equal, second.statistics, make())


@pytest.mark.parametrize(
    "change, said",
    [
        ({"split": "test"}, "split 'train', here 'test'"),
        ({"n": 229}, "n 230, here 229"),
        ({"shape": (8, 5, 3)}, r"shape \[6, 5, 3\], here \[8, 5, 3\]"),
        ({"network": "1" * 64, "resize": "clean"}, "resize 'none', here 'clean'; network '0+', here '1+'"),
    ],
)
def test_a_reference_of_something_else_is_refused_with_what_differs(extract, tmp_path, change, said):
    cached(tmp_path / "a.npz", MADE_OF, lambda: statistics(noise(), extract, keep=100))
    with pytest.raises(ValueError, match=rf"^\S+ is the reference of something else: {said}; name another file$"):
        cached(tmp_path / "a.npz", MADE_OF._replace(**change), lambda: pytest.fail("made again"))


def test_a_damaged_reference_is_refused(extract, tmp_path):
    path = tmp_path / "a.npz"
    cached(path, MADE_OF, lambda: statistics(noise(), extract, keep=100))
    whole = path.read_bytes()
    with np.load(path) as stored:
        np.savez(path, **{**stored, "kept": stored["kept"] + 1})
    with pytest.raises(ValueError, match="its numbers are not those of its digest"):
        load(path, MADE_OF)
    for damaged in (whole[:-200], b"", b"PK"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^\S+ holds no reference statistics .*: delete it to make it again$"):
            load(path, MADE_OF)


@pytest.fixture(scope="module")
def reference(extract):
    return Reference(statistics(noise(600), extract, keep=600), MADE_OF._replace(n=600, keep=600), "abc")


@pytest.mark.filterwarnings("ignore:Frechet distance over")
def test_copies_win_every_number_but_the_last_and_new_images_are_near_one(extract, reference):
    copies = dict(compare(reference.statistics, reference))
    assert copies["fid"].value == pytest.approx(0, abs=1e-6) and copies["sfid"].value == pytest.approx(0, abs=1e-6)
    assert copies["precision"].value == copies["recall"].value == 1
    assert copies["nearest_ratio"].value == pytest.approx(0, abs=1e-5)
    new = dict(compare(statistics(noise(600, seed=1), extract), reference))
    assert new["nearest_ratio"].value == pytest.approx(1, abs=0.05)
    assert abs(new["kid_all_pairs"].value) < 0.05 * abs(dark(extract, reference)["kid_all_pairs"].value)
    assert new["precision"].value > 0.8 and new["recall"].value > 0.8
    assert new["inception_score"].value == pytest.approx(new["inception_score"].settings["of_reference"], rel=0.1)


def dark(extract, reference):
    return dict(compare(statistics(noise(600, seed=2) // 2, extract), reference))


def test_images_of_another_kind_are_seen_by_all_but_the_inception_score(extract, reference):
    found = {name: result.value for name, result in dark(extract, reference).items()}
    assert found["fid"] > 1 and found["sfid"] > 0.1 and found["kid"] > 1
    assert found["precision"] < 0.5 and found["nearest_ratio"] > 1.1


@pytest.mark.filterwarnings("ignore:Frechet distance over")
def test_every_number_says_its_counts_and_its_reference(extract, reference):
    found = dict(compare(statistics(noise(12, seed=1), extract), reference))
    for result in found.values():
        assert result.settings["n"] == 12
        assert result.settings["reference"]["digest"] == "abc" and result.settings["reference"]["split"] == "train"
    assert found["fid"].settings["rank_deficient"] and found["fid"].settings["dimensions"] == 12
    assert not found["sfid"].settings["rank_deficient"]
    assert found["kid"].settings["subset_size"] == 12
