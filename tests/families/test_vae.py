"""Laws of the variational autoencoder: its bound against closed forms, its likelihoods as masses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from configs import digits_vae
from experiment import build
from families.vae import BIN, LIKELIHOODS, Bound, discretised_logistic, elbo
from models.vae import VAE

VALUES = np.linspace(-1, 1, 256)


def gaussian_density(x, mean, log_scale):
    return -0.5 * (((x - mean) / jnp.exp(log_scale)) ** 2 + jnp.log(2 * jnp.pi)) - log_scale


class Linear:
    """p(z) = N(0, 1), p(x | z) = N(W z + m, s^2), whose log p(x) and posterior are closed forms."""

    def __init__(self, seed=0, d=6, k=2):
        rng = np.random.default_rng(seed)
        self.w, self.m, self.s = rng.normal(size=(d, k)), rng.normal(size=d), 0.7
        self.x = rng.multivariate_normal(self.m, self.cov, size=9)
        self.precision = np.eye(k) + self.w.T @ self.w / self.s**2

    @property
    def cov(self):
        return self.w @ self.w.T + self.s**2 * np.eye(len(self.m))

    def exact(self):
        return stats.multivariate_normal(self.m, self.cov).logpdf(self.x)

    def bound(self, mean, log_variance, draws=20_000):
        """Mean over draws of minus the Bound, in nats."""
        x, keys = jnp.asarray(self.x[:, None, :, None]), jax.random.split(jax.random.key(1), draws)

        def one(key):
            z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
            decoded = (z @ self.w.T + self.m)[:, None, :, None]
            return elbo(gaussian_density, x, decoded, jnp.log(self.s), mean[:, None], log_variance[:, None]).loss(1.0)

        bits = jax.lax.map(one, keys, batch_size=1000)
        return -np.asarray(bits.mean(0)) * self.x.shape[1] * np.log(2)


def test_the_bound_is_below_the_exact_log_likelihood_by_the_posteriors_distance():
    with jax.enable_x64():
        model = Linear()
        best = np.linalg.solve(model.precision, model.w.T @ (model.x - model.m).T / model.s**2).T
        # of diagonal posteriors the best has the inverse of the precision's diagonal for variances
        variance = 1 / np.diag(model.precision)
        for mean, log_variance in (
            (best, np.log(variance)),
            (best + 0.3, np.log(variance) + 0.5),
            (0 * best, 0 * variance),
        ):
            log_variance = np.broadcast_to(log_variance, mean.shape)
            q, p = np.exp(log_variance), model.precision
            off = mean - best
            gap = 0.5 * (q @ np.diag(p) - 2 + np.einsum("bi,ij,bj->b", off, p, off) - log_variance.sum(1))
            gap -= 0.5 * np.linalg.slogdet(p)[1]
            assert np.all(gap > 0)
            found = model.bound(jnp.asarray(mean), jnp.asarray(log_variance))
            assert np.all(found < model.exact())
            np.testing.assert_allclose(model.exact() - found, gap, atol=0.15, rtol=0.03)


def test_the_kl_is_its_closed_form_and_beta_enters_linearly():
    mean, log_variance = np.random.default_rng(3).normal(size=(2, 4, 2, 2, 3))
    x = np.zeros((4, 5, 5, 1))
    found = elbo(gaussian_density, x, x, 0.0, jnp.asarray(mean), jnp.asarray(log_variance))
    kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum((1, 2, 3)) / 25 / np.log(2)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-5)
    at = [found.loss(beta) for beta in (0.0, 0.5, 2.0)]
    np.testing.assert_allclose(at[0], found.reconstruction, rtol=1e-6)
    np.testing.assert_allclose(4 * (at[1] - at[0]), at[2] - at[0], rtol=1e-4)
    assert Bound(1.0, 2.0).loss(0.25) == 1.5


@pytest.mark.parametrize("mean", [-1.4, -1.0, 0.1, 0.998, 3.0])
@pytest.mark.parametrize("log_scale", [-9.0, -4.0, 0.0, 3.0])
def test_the_discretised_logistic_sums_to_one_over_the_256_values(mean, log_scale):
    found = np.asarray(discretised_logistic(jnp.float32(VALUES), mean, log_scale), np.float64)
    assert np.isfinite(found).all() and np.exp(found).sum() == pytest.approx(1, abs=2e-4)
    cdf = stats.logistic(mean, np.exp(log_scale)).cdf
    edges = np.concatenate([[-np.inf], VALUES[:-1] + BIN / 2, [np.inf]])
    masses = np.diff(cdf(edges))
    seen = masses > 1e-12  # below, the oracle's own difference is rounding
    np.testing.assert_allclose(found[seen], np.log(masses[seen]), atol=2e-2, rtol=2e-3)


def test_the_dequantised_gaussian_is_the_mean_over_the_bin_and_below_its_mass():
    x, mean, log_scale = 0.25, 0.31, np.log(0.05)
    inside = x + BIN * (np.arange(10_000) + 0.5) / 10_000 - BIN / 2
    normal = stats.norm(mean, 0.05)
    expected = np.log(BIN) + normal.logpdf(inside).mean()
    found = float(LIKELIHOODS["gaussian"](x, mean, log_scale))
    assert found == pytest.approx(expected, abs=1e-5)
    assert found < np.log(normal.cdf(x + BIN / 2) - normal.cdf(x - BIN / 2))


def test_latents_have_the_lowest_levels_size_and_see_the_label():
    net = VAE(size=8, out_channels=1, latent=3, channels=8, multipliers=(1, 2), blocks=1, num_labels=4, groups=4)
    x, labels = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([1, 3])
    shapes = jax.eval_shape(net.init, jax.random.key(1), x, labels)  # its own values begin every block as a shortcut
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.float32(0.1 * rng.normal(size=leaf.shape)), shapes)
    mean, log_variance = net.apply(params, x, labels, method="encode")
    assert mean.shape == log_variance.shape == (2, 4, 4, 3)
    other, _ = net.apply(params, x, labels[::-1], method="encode")
    assert not np.allclose(mean, other)
    assert net.apply(params, mean, labels, method="decode").shape == x.shape


@pytest.fixture(scope="module")
def experiment():
    return build(digits_vae.get_config("tiny"))


def test_validation_is_the_bound_whatever_beta_was_trained_with(experiment):
    config = digits_vae.get_config("tiny")
    config.vae.beta = 7.0
    params = experiment.init().params
    value, n = experiment.validation_loss(params, None)
    assert n == 16 and build(config).validation_loss(params, None)[0] == pytest.approx(value, rel=1e-6)


def test_bits_are_the_bound_and_its_two_parts_of_each_image(experiment):
    keys = jax.random.split(jax.random.key(0), 8)
    found = jax.eval_shape(experiment.bits, experiment.abstract.params, None, next(experiment.batches(0)), keys)
    assert {name: each.shape for name, each in found.items()} == {
        "elbo": (8,),
        "elbo/reconstruction": (8,),
        "elbo/kl": (8,),
    }


def test_sample_i_is_a_function_of_seed_i(experiment):
    params = experiment.init().params
    seeds, given = np.arange(8, dtype=np.uint32), {"label": np.zeros(8, np.int32)}
    a = experiment.sample(params, None, seeds, given, None)
    b = experiment.sample(params, None, seeds[::-1].copy(), given, None)
    np.testing.assert_allclose(a, b[::-1], atol=1e-5)
    assert a.shape == (8, 8, 8, 1) and np.abs(a).max() <= 1
