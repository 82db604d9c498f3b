"""Methods with moments straight from their formulas: NumPy, float64, biased averages.

Each takes gradients of shape (steps, entries) of one leaf, and returns the updates. A
gradient that is not finite gives NaN, and nothing learns of it.
"""

import numpy as np


def rough_gradients(steps=200, entries=6, seed=0):
    """Normal, with spikes, zeros, an entry that is zero for long, NaN and inf."""
    rng = np.random.default_rng(seed)
    grads = rng.normal(size=(steps, entries))
    grads[rng.random(grads.shape) < 0.1] = 0
    grads[rng.random(grads.shape) < 0.03] *= 1000
    grads[rng.random(steps) < 0.05] *= 300
    grads[:60, 0] = 0
    grads[[0, 90]] = 0
    grads[[31, 32, 140], 2] = np.nan
    grads[77, 1] = -np.inf
    return grads


def over_finite(grads, step):
    """Applies `step` (gradient, its number from 1 -> update) to what is finite."""
    updates, n = np.full_like(grads, np.nan), 0
    for t, g in enumerate(grads):
        if np.isfinite(g).all():
            n += 1
            updates[t] = step(g, n)
    return updates


def clip_by_second_moment(grads, threshold, decay, clip_delay):
    v = np.zeros(grads.shape[1])

    def step(g, n):
        nonlocal v
        bound = np.where(v > 0, np.sqrt(threshold * v), np.inf)
        if n >= clip_delay:
            g = np.clip(g, -bound, bound)
        v = decay * v + (1 - decay) * g**2
        return g

    return over_finite(grads, step)


def scale_by_spam(
    grads,
    b1,
    b2,
    eps,
    threshold,
    reset_every,
    warmup_steps,
    clip_delay,
    reference=False,
):
    m, v = np.zeros(grads.shape[1]), np.zeros(grads.shape[1])
    k = warmup_steps + 1  # updates since the last reset, if there was one
    age = 0  # updates in the moments

    def step(g, n):
        nonlocal m, v, k, age
        if n % reset_every == 0:
            m, v, k, age = np.zeros_like(m), np.zeros_like(v), 0, 0
        if n >= clip_delay and n % reset_every >= clip_delay:
            bound = np.sqrt(threshold * v)
            if not reference:
                bound = np.where(v > 0, bound, np.inf)
            g = np.clip(g, -bound, bound)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        scale = 1
        if k < warmup_steps:
            scale -= 0.99 * (1 + np.cos(np.pi * k / (warmup_steps + 1))) / 2
        k, age = k + 1, age + 1
        count = n if reference else age
        rate = np.sqrt(1 - b2**count) / (1 - b1**count)
        return scale * rate * m / (np.sqrt(v) + eps)

    return over_finite(grads, step)


def shrink_largest(g, largest, decay, count):
    """AdaFN: the gradient, and the biased average."""
    top = np.max(abs(g))
    largest = decay * largest + (1 - decay) * top
    limit = largest / (1 - decay**count)
    ratio = limit / top if top > 0 else 1
    return np.where(abs(g) > limit, g * ratio, g), largest


def normalize(g, averages, decays, eps, count):
    """AdaGN: the gradient, and the biased averages."""
    norm = np.linalg.norm(g)
    mu, nu = (
        b * a + (1 - b) * x
        for b, a, x in zip(decays, averages, (norm, norm**2), strict=True)
    )
    mu_hat, nu_hat = mu / (1 - decays[0] ** count), nu / (1 - decays[1] ** count)
    usual = mu_hat / (np.sqrt(nu_hat) + eps)
    return (g / norm * usual if norm > 0 else g), (mu, nu)


def clip_by_tracked_max(grads, decay):
    largest = 0.0

    def step(g, n):
        nonlocal largest
        g, largest = shrink_largest(g, largest, decay, n)
        return g

    return over_finite(grads, step)


def normalize_by_tracked_norm(grads, b1, b2, eps):
    averages = 0.0, 0.0

    def step(g, n):
        nonlocal averages
        g, averages = normalize(g, averages, (b1, b2), eps, n)
        return g

    return over_finite(grads, step)


def scale_by_stable_spam(
    grads, b1, b2, eps, gamma1, gamma2, gamma3, reset_every, reference=False
):
    m, v = np.zeros(grads.shape[1]), np.zeros(grads.shape[1])
    largest, averages, age = 0.0, (0.0, 0.0), 0

    def step(g, n):
        nonlocal m, v, largest, averages, age
        resets = n % reset_every == 0
        age += 1
        count = age if reference else n
        g, largest = shrink_largest(g, largest, gamma3, count)
        g, averages = normalize(g, averages, (gamma1, gamma2), eps, count)
        if resets:
            age = 1
            if not reference:
                m, v = np.zeros_like(m), np.zeros_like(v)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        update = m / (1 - b1**age) / (np.sqrt(v / (1 - b2**age)) + eps)
        if resets and reference:
            m, v = np.zeros_like(m), np.zeros_like(v)
        return update

    return over_finite(grads, step)


def scale_by_stable_adam(grads, b1, b2, eps, threshold):
    m, v = np.zeros(grads.shape[1]), np.zeros(grads.shape[1])

    def step(g, n):
        nonlocal m, v
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**n), v / (1 - b2**n)
        rms = np.sqrt(np.mean(g**2 / np.maximum(v_hat, eps**2)))
        return m_hat / (np.sqrt(v_hat) + eps) / max(1, rms / threshold)

    return over_finite(grads, step)


def adopt_clip(grads, exponent):
    """This one has no memory but its count, and bounds what is infinite."""
    bounds = np.arange(1, len(grads) + 1)[:, None] ** exponent
    return np.clip(grads, -bounds, bounds)


def clip_by_relative_update(grads, params, relative, absolute):
    updates = np.full_like(grads, np.nan)
    for t, u in enumerate(grads):
        if np.isfinite(u).all():
            ratios = abs(u) / (relative * abs(params) + absolute)
            updates[t] = u / max(1, ratios.max())
    return updates


def adaptive_quantile_clip(grads, init_norm, target_quantile, learning_rate):
    """Gradients of shape (steps, examples, entries)."""
    updates, limit = np.full_like(grads[:, 0], np.nan), init_norm
    for t, examples in enumerate(grads):
        if np.isfinite(examples).all():
            norms = np.linalg.norm(examples, axis=1)
            scales = [min(1, limit / n) if n > 0 else 1 for n in norms]
            updates[t] = np.mean(examples * np.transpose([scales]), axis=0)
            kept = np.mean(norms <= limit)
            limit *= np.exp(-learning_rate * (kept - target_quantile))
    return updates
