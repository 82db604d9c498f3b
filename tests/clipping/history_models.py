"""Thresholds from past norms straight from their formulas: one norm, one loop, NumPy.

Each gives what norm goes out for each that comes in. `enters` tells which of them the
statistics see: the finite ones, and of those the ones that are not zero.
"""

import numpy as np


def out(n, limit):
    return np.nan if not np.isfinite(n) else min(n, limit)


def softly(n, limit, eps):
    """n times min(1, limit / (n + eps))."""
    return n * min(1, limit / (n + eps)) if np.isfinite(n) and n > 0 else out(n, 0)


def percentile(norms, enters, p=10, window=1000, eps=0.0):
    past, outs = [], []
    for n, entering in zip(norms, enters, strict=True):
        held = [*past, n][-window:]
        outs.append(softly(n, np.percentile(held, p) if np.isfinite(n) else 0, eps))
        past = held if entering else past
    return outs


def order_statistic(norms, enters, p, window):
    """The percentile of bitsandbytes, among squares, the window full from the start."""
    squares, step, outs = None, 0, []
    for n, entering in zip(norms, enters, strict=True):
        held = np.full(window, n**2) if squares is None else squares.copy()
        held[step % window] = n**2
        outs.append(out(n, np.sqrt(np.sort(held)[p])))
        if entering:
            squares, step = held, step + 1
    return outs


def mean_and_deviations(norms, enters, z_threshold=3.0, window=128):
    past, outs = [], []
    for n, entering in zip(norms, enters, strict=True):
        limit = np.inf
        if len(past) >= max(2, window // 2):
            limit = np.mean(past) + z_threshold * np.std(past)
        outs.append(out(n, limit))
        if entering:
            past = [*past, n][-window:]
    return outs


def zclip(
    norms,
    enters,
    decay=0.97,
    z=2.5,
    max_norm=1.0,
    warmup=25,
    mode="adaptive",
    factor=1.0,
    skip=False,
    patience=25,
):
    first, mean, var, streak, outs = [], None, None, [], []
    for n, entering in zip(norms, enters, strict=True):
        if mean is None:
            outs.append(out(n, max_norm))
            if entering:
                first.append(n)
            if len(first) == warmup:
                mean, var = np.mean(first), np.var(first)
            continue
        std = np.sqrt(var)
        spike = n - mean > z * std
        bound = {
            "adaptive": factor * (mean + z**2 * var / (n - mean)) if spike else None,
            "mean": mean,
            "threshold": mean + z * std,
        }[mode]
        outs.append(out(n, min(bound if spike else np.inf, max_norm)))
        if not entering:
            continue
        x, before = bound if spike else n, (mean, std)
        if not (spike and skip):
            mean = decay * mean + (1 - decay) * x
            var = decay * var + (1 - decay) * (x - mean) ** 2
        streak = [*streak, n] if spike else []
        if len(streak) >= patience:
            mean = min(streak)
            var = (before[1] * mean / before[0]) ** 2
            streak = []
    return outs


def adagc(
    norms,
    enters,
    totals,
    ratio=1.04,
    decay=0.99,
    max_norm=1.0,
    warmup=100,
    patience=100,
    raw=False,
):
    """`totals` are the global norms, none of them zero."""
    level, seen, streak, outs = None, 0, [], []
    for n, entering, total in zip(norms, enters, totals, strict=True):
        warming = seen < warmup
        if warming:
            used = out(total, max_norm) * (n / total if np.isfinite(total) else np.nan)
            outs.append(used)
        else:
            used = out(n, np.inf if level is None else ratio * level)
            outs.append(used)
        if not entering:
            continue
        seen += 1
        if warming:
            start = n if raw else used
            level = start if level is None else min(level, start)
            continue
        level = n if level is None else decay * level + (1 - decay) * used
        streak = [*streak, n] if used < n else []
        if len(streak) >= patience:
            level, streak = min(streak), []
    return outs


def norm_ratio(norms, enters, ratio, decay=0.95, patience=50, reference=False):
    """`reference`: as in OLMo, with its 1e-6, a late first average, and no escape."""
    level, seen, streak, outs = None, 0, [], []
    for n, entering in zip(norms, enters, strict=True):
        average = n if level is None else level
        used = (
            softly(n, ratio * average, 1e-6) if reference else out(n, ratio * average)
        )
        outs.append(used)
        if not entering:
            continue
        seen += 1
        streak = [*streak, n] if used < n and level is not None else []
        level = decay * average + (1 - decay) * used
        if reference:
            level = None if seen == 1 else level
        elif len(streak) >= patience:
            level, streak = min(streak), []
    return outs


def norm_growth(norms, enters, growth=1.01, least=0.0, eps=0.0):
    level, outs = None, []
    for n, entering in zip(norms, enters, strict=True):
        limit = np.inf if level is None else growth * max(level + eps, least)
        outs.append(out(n, limit))
        if entering:
            level = outs[-1]
    return outs
