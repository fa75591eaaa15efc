"""The samplers once more: the published recursions in numpy float64, in the papers' own variables.

Nothing of diffusion/ is used. Each takes the levels alpha, sigma [steps + 1] (the last is data's, 1 and 0), the
start x, a list of noises z [steps], and x0_of(x, alpha, sigma). x may be images, or the coefficients of a random
variable on (1, x_T, z_0, z_1, ..), which an affine x0_of keeps; then mean and variance are exact.
"""

import math

import numpy as np


def ancestral(alpha, sigma, x, z, x0_of, frac=0.0):
    """Bayes' formula for the Gaussian chain; frac of the way from the posterior's log variance to the step's."""
    for k in range(len(alpha) - 1):
        x0, r = x0_of(x, alpha[k], sigma[k]), alpha[k] / alpha[k + 1]
        step = sigma[k] ** 2 - r**2 * sigma[k + 1] ** 2
        if sigma[k + 1] == 0:
            yield x0
            return
        variance = 1 / (1 / sigma[k + 1] ** 2 + r**2 / step)
        mean = variance * (alpha[k + 1] * x0 / sigma[k + 1] ** 2 + r * x / step)
        x = mean + math.sqrt(variance ** (1 - frac) * step**frac) * z[k]
        yield x


def ddim(alpha, sigma, x, z, x0_of, eta=0.0):
    """DDIM eq. (12), with eq. (16)'s variance for any alpha and sigma."""
    for k in range(len(alpha) - 1):
        x0 = x0_of(x, alpha[k], sigma[k])
        eps = (x - alpha[k] * x0) / sigma[k]
        step = sigma[k] ** 2 - (alpha[k] / alpha[k + 1] * sigma[k + 1]) ** 2
        std = eta * sigma[k + 1] / sigma[k] * math.sqrt(step)
        x = alpha[k + 1] * x0 + math.sqrt(sigma[k + 1] ** 2 - std**2) * eps + std * z[k]
        yield x


def heun(
    alpha, sigma, x, z, x0_of, churn=0.0, churn_min=0.0, churn_max=math.inf, noise=1.0, alpha_of=None, corrected=True
):
    """EDM algorithm 2 in y = x / alpha; alpha_of(r) is the schedule's alpha where sigma / alpha = r."""
    steps = len(alpha) - 1
    for k in range(steps):
        if alpha[k] == 0:  # y is infinite: Euler's step in the limit
            x0 = x0_of(x, alpha[k], sigma[k])
            x = alpha[k + 1] * x0 + sigma[k + 1] * x / sigma[k]
            yield x
            continue
        y, r, r_next = x / alpha[k], sigma[k] / alpha[k], sigma[k + 1] / alpha[k + 1]
        gamma = min(churn / steps, math.sqrt(2) - 1) if churn_min <= r <= churn_max else 0.0
        r_hat, a = r * (1 + gamma), alpha[k]
        if gamma:
            a, y = alpha_of(r_hat), y + math.sqrt(r_hat**2 - r**2) * noise * z[k]
        d = (y - x0_of(a * y, a, a * r_hat)) / r_hat
        y_next = y + (r_next - r_hat) * d
        if r_next and corrected:
            d_next = (y_next - x0_of(alpha[k + 1] * y_next, alpha[k + 1], sigma[k + 1])) / r_next
            y_next = y + (r_next - r_hat) * (d + d_next) / 2
        x = alpha[k + 1] * y_next
        yield x


def euler(*args, **settings):
    return heun(*args, **settings, corrected=False)


def euler_ancestral(alpha, sigma, x, z, x0_of, eta=1.0):
    """k-diffusion's: down to a lower level by Euler's step, then up by noise."""
    for k in range(len(alpha) - 1):
        x0 = x0_of(x, alpha[k], sigma[k])
        if alpha[k] == 0 or sigma[k + 1] == 0:
            up, down = eta * sigma[k + 1] / alpha[k + 1], sigma[k + 1] / alpha[k + 1] * math.sqrt(1 - eta**2)
            x = alpha[k + 1] * (x0 + down * (x - alpha[k] * x0) / sigma[k] + up * z[k])
            yield x
            continue
        r, r_next = sigma[k] / alpha[k], sigma[k + 1] / alpha[k + 1]
        up = min(r_next, eta * math.sqrt(r_next**2 * (r**2 - r_next**2) / r**2))
        down = math.sqrt(r_next**2 - up**2)
        y = x / alpha[k]
        x = alpha[k + 1] * (y + (y - x0) / r * (down - r) + up * z[k])
        yield x


def dpmpp_2m(alpha, sigma, x, z, x0_of, eta=0.0):
    """DPM-Solver++(2M), midpoint; eta = 1 is its SDE form."""
    before, h_before = None, math.inf
    for k in range(len(alpha) - 1):
        x0 = x0_of(x, alpha[k], sigma[k])
        if sigma[k + 1] == 0:
            yield x0
            return
        if alpha[k] == 0:
            stays = sigma[k + 1] if eta == 0 else 0.0
            x, h = stays * x + alpha[k + 1] * x0 + (sigma[k + 1] if eta else 0) * z[k], math.inf
        else:
            h = math.log(alpha[k + 1] / sigma[k + 1]) - math.log(alpha[k] / sigma[k])
            d1 = 0 if math.isinf(h_before) else (x0 - before) / (h_before / h)
            grows = 1 - math.exp(-(1 + eta) * h)
            x = sigma[k + 1] / sigma[k] * math.exp(-eta * h) * x + alpha[k + 1] * grows * (x0 + d1 / 2)
            x = x + sigma[k + 1] * math.sqrt(1 - math.exp(-2 * eta * h)) * z[k]
        before, h_before = x0, h
        yield x


def dpmpp_3m_sde(alpha, sigma, x, z, x0_of, eta=1.0):
    """k-diffusion's sample_dpmpp_3m_sde, in y = x / alpha."""
    seen = []  # (x0, h), the newest last
    for k in range(len(alpha) - 1):
        x0 = x0_of(x, alpha[k], sigma[k])
        if sigma[k + 1] == 0:
            yield x0
            return
        if alpha[k] == 0:
            stays = sigma[k + 1] if eta == 0 else 0.0
            x, h = stays * x + alpha[k + 1] * x0 + (sigma[k + 1] if eta else 0) * z[k], math.inf
        else:
            h = math.log(alpha[k + 1] / sigma[k + 1]) - math.log(alpha[k] / sigma[k])
            h_eta = h * (eta + 1)
            y = math.exp(-h_eta) * x / alpha[k] - math.expm1(-h_eta) * x0
            phi_2 = math.expm1(-h_eta) / h_eta + 1
            known = [(m, step) for m, step in seen if math.isfinite(step)]
            if len(known) >= 2 and len(seen) >= 2:
                (m2, h2), (m1, h1) = known[-2:]
                r0, r1 = h1 / h, h2 / h
                d1_0, d1_1 = (x0 - m1) / r0, (m1 - m2) / r1
                d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
                d2 = (d1_0 - d1_1) / (r0 + r1)
                y = y + phi_2 * d1 - (phi_2 / h_eta - 0.5) * 2 * d2  # x0'' is twice the divided difference
            elif known:
                m1, h1 = known[-1]
                y = y + phi_2 * (x0 - m1) / (h1 / h)
            x = alpha[k + 1] * y + sigma[k + 1] * math.sqrt(1 - math.exp(-2 * eta * h)) * z[k]
        seen.append((x0, h))
        yield x


def unipc(alpha, sigma, x, z, x0_of, order=2):
    """UniPC-B2 as its authors' code has it: linear systems, factorials and all. alpha[0] > 0."""
    lam = [math.log(a / s) if s else math.inf for a, s in zip(alpha, sigma)]
    outs, start = [], x

    def update(start, i, k, p, new=None):
        """From start at level i to level k, by a method of order p."""
        h = lam[k] - lam[i]
        base = sigma[k] / sigma[i] * start - alpha[k] * math.expm1(-h) * outs[i]
        rks = [(lam[i - j] - lam[i]) / h for j in range(1, p)] + [1.0]
        d1s = [(outs[i - j] - outs[i]) / rks[j - 1] for j in range(1, p)]
        phi, factorial, rows, b = math.expm1(-h) / -h - 1, 1, [], []
        for n in range(1, p + 1):
            rows.append([r ** (n - 1) for r in rks])
            b.append(phi * factorial / math.expm1(-h))
            factorial *= n + 1
            phi = phi / -h - 1 / factorial
        if new is None:
            rho = [0.5] if p == 2 else list(np.linalg.solve(np.array(rows)[:-1, :-1], b[:-1])) if p > 2 else []
        else:
            rho = [0.5] if p == 1 else list(np.linalg.solve(np.array(rows), b))
            d1s = [*d1s, new - outs[i]]
        return base - alpha[k] * math.expm1(-h) * sum((r * d for r, d in zip(rho, d1s)), 0 * base)

    for k in range(len(alpha) - 1):
        out = x0_of(x, alpha[k], sigma[k])
        if k:
            x = update(start, k - 1, k, min(k, order), out)
        outs.append(out)
        if sigma[k + 1] == 0:
            yield out
            return
        start, x = x, update(x, k, k + 1, min(k + 1, order))
        yield x


def addim(alpha, sigma, x, z, x0_of, eta=0.1, variance=0.5):
    """Heek et al. 2024, algorithm 3, on images [b h w c]."""
    for k in range(len(alpha) - 1):
        x0 = x0_of(x, alpha[k], sigma[k])
        if sigma[k + 1] == 0:
            yield x0
            return
        eps = (x - alpha[k] * x0) / sigma[k]
        x0_variance = eta / (1 / variance + alpha[k] ** 2 / sigma[k] ** 2)
        lost = (alpha[k + 1] - alpha[k] * sigma[k + 1] / sigma[k]) ** 2 * x0_variance
        d = math.prod(x.shape[1:])
        norm = (eps**2).sum(axis=(1, 2, 3), keepdims=True)
        x = alpha[k + 1] * x0 + np.sqrt(sigma[k + 1] ** 2 + d / norm * lost) * eps
        yield x


def predictor_corrector(alpha, sigma, x, z, x0_of, snr=0.16, langevin=()):
    """Score SDEs, algorithm 1 with algorithms 4 and 5's corrector, on images; langevin: its noises [steps][n]."""
    for k in range(len(alpha) - 1):
        (x,) = ancestral(alpha[k : k + 2], sigma[k : k + 2], x, z[k:], x0_of)
        for noise in langevin[k] if sigma[k + 1] else ():
            score = -(x - alpha[k + 1] * x0_of(x, alpha[k + 1], sigma[k + 1])) / sigma[k + 1] ** 2
            norms = (np.sqrt((v**2).sum(axis=(1, 2, 3), keepdims=True)) for v in (noise, score))
            size = 2 * (snr * next(norms) / next(norms)) ** 2
            x = x + size * score + np.sqrt(2 * size) * noise
        yield x


RECURSIONS = {
    "ancestral": ancestral,
    "ddim": ddim,
    "addim": addim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "unipc": unipc,
    "predictor_corrector": predictor_corrector,
}
