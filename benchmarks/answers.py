"""How often the intervals of `stabjax.runs` hold the truth, on runs with a known one.

python benchmarks/answers.py [--draws 500]

Losses are drawn from a known curve of the logarithm of the rate, with a level for each
seed that all rates share, and noise. Each line is the fraction of draws in which the
95% interval holds the truth, and its width in units of the rate's logarithm or of the
noise. Beside stabjax's methods stand the usual ones: the vertex of a parabola with a
percentile bootstrap over the seeds; differences at settings that are chosen and
compared on the same seeds, or with one seed left out at a time.
"""

import argparse

import numpy as np
import xarray as xr
from scipy.special import stdtrit

import stabjax

RATES = np.logspace(-3, 0, 13)
FEW_RATES = np.logspace(-3, -1, 5)  # half a decade apart
# Losses by the distance from the optimum, in units of the rate's logarithm. The last
# two are much steeper above the optimum than below, as near divergence. The cliff is a
# flat valley with a wall 0.8 above its minimum.
CURVES = {
    "parabola": lambda d: d * d / 2,
    "skewed": lambda d: d * d / 2 * (1 + np.clip(d, -3, 9) / 4),
    "exponential": lambda d: np.exp(d) - d - 1,
    "cliff": lambda d: (
        (d * d / 2 + np.exp(4 * np.minimum(d, 3) - 3.2) - 0.163 * d) / 20
    ),
}


def dataset(losses, **coords):
    """Runs with these final losses; the dimensions are those of `coords`."""
    status = np.isinf(losses).astype(np.int8)
    variables = {"final_loss": ([*coords], losses), "status": ([*coords], status)}
    return xr.Dataset(variables, coords)


def noisy(rng, curve, seeds, noise):
    """Adds a level for each seed, and noise, to losses; the seeds come last."""
    level = 2 * noise * rng.normal(size=seeds)
    return curve[..., None] + level + noise * rng.normal(size=(*curve.shape, seeds))


def draw_optimum(rng, curve, seeds, noise, rates=RATES):
    """Runs, and the best rate of the curve, in the middle half of the rates."""
    outside = len(rates) // 4
    best = rng.uniform(np.log(rates[outside]), np.log(rates[-1 - outside]))
    losses = noisy(rng, CURVES[curve](np.log(rates) - best), seeds, noise)
    return dataset(losses, rate=rates, seed=np.arange(seeds)), np.exp(best)


def draw_treatments(rng, settings, seeds, noise):
    """Runs of two treatments with so many settings, and their true difference.

    The first treatment has the settings, the second only some of them: others diverge.
    """
    first, second = settings
    at = np.linspace(-2, 2, first) + rng.uniform(-0.2, 0.2, size=(2, 1))
    curves = at**2 / 2
    curves[1, second:] = np.inf
    difference = curves[0].min() - curves[1].min()
    losses = noisy(rng, curves, seeds, noise)
    coords = {"method": ["a", "b"], "setting": np.arange(first)}
    return dataset(losses, **coords, seed=np.arange(seeds)), difference


def draw_law(rng, seeds, noise):
    """Runs at four widths, and the exponent of the best rate."""
    widths = np.array([16, 32, 64, 128])
    exponent = rng.uniform(-1, 0)
    best = np.log(0.05) + exponent * np.log(widths / 45)
    losses = noisy(rng, (np.log(RATES)[:, None] - best) ** 2 / 2, seeds, noise)
    return dataset(losses, rate=RATES, width=widths, seed=np.arange(seeds)), exponent


def holds(interval, truth):
    return bool(interval.low <= truth <= interval.high)


def optimum_coverage(rng, draws, curve, seeds, noise, rates=RATES):
    """Fraction of draws whose interval holds the truth, and the median width."""
    held, widths = 0, []
    for _ in range(draws):
        runs, best = draw_optimum(rng, curve, seeds, noise, rates)
        value = stabjax.runs.optimum(runs, "rate").value
        held += holds(value, best)
        low, high = max(value.low, 1e-99), value.high
        widths.append(np.log(high / low))
    return held / draws, float(np.median(widths))


def bootstrap_coverage(rng, draws, curve, seeds, noise, resamples=500):
    """The same for the vertex of a parabola through the best five rates."""
    held, widths = 0, []
    for _ in range(draws):
        runs, best = draw_optimum(rng, curve, seeds, noise)
        losses = runs.final_loss.transpose("seed", "rate").values
        start = int(np.clip(losses.mean(axis=0).argmin() - 2, 0, len(RATES) - 5))
        x = np.log(RATES[start : start + 5])
        powers = np.linalg.pinv(np.vander(x - x.mean(), 3, increasing=True))
        of_seeds = losses[:, start : start + 5] @ powers.T
        chosen = rng.integers(seeds, size=(resamples, seeds))
        means = of_seeds[chosen].mean(axis=1)
        vertices = x.mean() - means[:, 1] / (2 * means[:, 2])
        low, high = np.quantile(vertices, [0.025, 0.975])
        held += low <= np.log(best) <= high
        widths.append(high - low)
    return held / draws, float(np.median(widths))


def edge_flags(rng, draws, seeds, noise):
    """Fractions of right flags for a best rate inside, below and above the grid."""
    inside, outside = np.log(RATES[2:-2]), np.log(RATES[1] / RATES[0])
    right = dict.fromkeys([None, "low", "high"], 0)
    for edge in right:
        for _ in range(draws):
            best = {
                None: rng.uniform(inside[0], inside[-1]),
                "low": np.log(RATES[0]) - outside * rng.uniform(1, 4),
                "high": np.log(RATES[-1]) + outside * rng.uniform(1, 4),
            }[edge]
            losses = noisy(rng, (np.log(RATES) - best) ** 2 / 2, seeds, noise)
            runs = dataset(losses, rate=RATES, seed=np.arange(seeds))
            right[edge] += stabjax.runs.optimum(runs, "rate").edge == edge
    return {edge: count / draws for edge, count in right.items()}


def compare_coverage(rng, draws, settings, seeds, noise):
    """Coverage, bias and width, in units of the noise, of three methods."""
    found = {"stabjax": [], "same seeds": [], "one left out": []}
    for _ in range(draws):
        runs, truth = draw_treatments(rng, settings, seeds, noise)
        (one,) = stabjax.runs.compare(runs, "method").differences
        found["stabjax"].append((*one.difference, truth))
        a, b = runs.final_loss.transpose("method", "seed", "setting").values
        for name, of in (("same seeds", _chosen), ("one left out", _left_out)):
            paired = of(a) - of(b)
            error = paired.std(ddof=1) / np.sqrt(seeds)
            half = stdtrit(seeds - 1, 0.975) * error
            mean = paired.mean()
            found[name].append((mean, mean - half, mean + half, truth))
    return {name: _summary(np.array(rows), noise) for name, rows in found.items()}


def _chosen(losses):
    return losses[:, losses.mean(axis=0).argmin()]


def _left_out(losses):
    others = losses.sum(axis=0) - np.where(np.isinf(losses), 0, losses)
    return losses[np.arange(len(losses)), others.argmin(axis=1)]


def _summary(rows, noise):
    value, low, high, truth = rows.T
    covered = np.mean((low <= truth) & (truth <= high))
    return covered, np.mean(value - truth) / noise, np.median(high - low) / noise


def scaling_coverage(rng, draws, seeds, noise):
    """Fractions of draws whose intervals hold the exponent, and an extrapolation."""
    held = np.zeros(2)
    for _ in range(draws):
        runs, exponent = draw_law(rng, seeds, noise)
        law = stabjax.runs.scaling(runs, "rate", over="width")
        truth = 0.05 * (1024 / 45) ** exponent
        held += (
            holds(law.exponents["width"], exponent),
            holds(law.predict(width=1024), truth),
        )
    return held / draws


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=500)
    draws = parser.parse_args().draws
    rng = np.random.default_rng(0)
    print("optimum: curve, seeds, noise; coverage and width; parabola and bootstrap")
    for curve in CURVES:
        for seeds in (8, 16):
            for noise in (0.02, 0.1, 0.3):
                case = curve, seeds, noise
                ours = optimum_coverage(rng, draws, *case)
                usual = bootstrap_coverage(rng, draws, *case)
                print("  {:12} {:2} {:4}".format(*case), end="")
                print("  {:.3f} {:.2f}  {:.3f} {:.2f}".format(*ours, *usual))
    print("optimum of five rates half a decade apart: noise; coverage and width")
    for curve in CURVES:
        for noise in (0.02, 0.1, 0.3):
            ours = optimum_coverage(rng, draws, curve, 8, noise, FEW_RATES)
            print("  {:12} {:4}  {:.3f} {:.2f}".format(curve, noise, *ours))
    print("edge flags that are right: inside, below, above")
    for seeds, noise in ((8, 0.1), (8, 0.3), (16, 0.3)):
        flags = edge_flags(rng, draws, seeds, noise).values()
        print(f"  {seeds:2} {noise:4}  " + "  ".join(f"{f:.3f}" for f in flags))
    print("compare: settings, seeds, noise; coverage, bias and width")
    for settings in ((9, 9), (81, 9), (9, 1)):
        for seeds in (8, 16):
            for noise in (0.05, 0.3):
                case = settings, seeds, noise
                found = compare_coverage(rng, draws, *case)
                text = [
                    "{}: {:.3f} {:5.2f} {:.2f}".format(n, *f) for n, f in found.items()
                ]
                print(f"  {settings!s:8} {seeds:2} {noise:4}  " + "   ".join(text))
    print("scaling: seeds, noise; coverage of the exponent, of an extrapolation")
    for seeds in (8, 16):
        for noise in (0.05, 0.2):
            found = scaling_coverage(rng, draws, seeds, noise)
            print("  {:2} {:4}  {:.3f}  {:.3f}".format(seeds, noise, *found))


if __name__ == "__main__":
    main()
