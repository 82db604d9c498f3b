"""Reproduces the figures of the convex bound for learning rate schedules.

python benchmarks/published/schedule_bound.py

Schaipp et al., 2025 (https://arxiv.org/abs/2501.18965), bound the final loss of a
schedule on convex problems. The script prints the best rate and the bound of their
code (https://github.com/fabian-sp/lr-scheduling) beside those of
`stabjax.schedule_bound`, and the power laws of the best rate in the number of steps,
which the paper reports as 0.92 for the cosine and 0.47 for a trapezoid (wsd).
"""

import jax
import numpy as np
from scipy.optimize import curve_fit

import stabjax


def cooling(steps, fraction, shape="linear"):
    return stabjax.wsd_schedule(
        1.0, 0, steps * (1 - fraction), steps * fraction, shape=shape
    )


def cosine(steps):
    return stabjax.cosine_decay_schedule(1.0, steps)


# Schedule, steps, and the best rate and bound of the authors' code.
THEIRS = [
    ("wsd, cooldown 0.2", cooling(400, 0.2), 400, 0.02537366, 0.10932301),
    ("wsd, cooldown 0.4", cooling(400, 0.4), 400, 0.03007013, 0.10376161),
    ("linear", cooling(400, 1.0), 400, 0.04956313, 0.10062987),
    ("cosine", cosine(400), 400, 0.04824189, 0.10338591),
    ("1/sqrt", stabjax.inverse_sqrt_schedule(1.0, 1), 400, 0.21208558, 0.12226427),
    ("constant", stabjax.constant_schedule(1.0), 400, 0.01817590, 0.13754481),
    ("wsd, 1-sqrt", cooling(400, 0.2, "1-sqrt"), 400, 0.02684614, 0.10728815),
    ("wsd, cooldown 0.2", cooling(4000, 0.2), 4000, 0.00811829, 0.03421152),
    ("linear", cooling(4000, 1.0), 4000, 0.01579290, 0.03165189),
]
# gamma* = A T^B for T = 200, ..., 600, with the authors' code and in the paper.
POWER_LAWS = {
    "cosine": (cosine, 0.91988, -0.4921),
    "wsd": (lambda steps: cooling(steps, 0.2), 0.47076, -0.4875),
}


def bounds():
    """The best rate and bound of each row, in float64."""
    with jax.enable_x64(True):
        for _, schedule, steps, *_ in THEIRS:
            bound = stabjax.schedule_bound(schedule, steps)
            yield float(bound.best_rate), float(bound.best_value)


def power_law(make):
    """Least squares of A T^B to the best rates."""
    steps = np.arange(200, 601, 100)
    with jax.enable_x64(True):
        rates = [float(stabjax.schedule_bound(make(n), n).best_rate) for n in steps]
    found, _ = curve_fit(lambda t, a, b: a * t**b, steps, rates, (1.0, -0.5))
    return found


def main():
    print("schedule           steps    best rate: theirs     stabjax  ", end="")
    print("  bound: theirs     stabjax")
    for row, (rate, value) in zip(THEIRS, bounds(), strict=True):
        name, _, steps, their_rate, their_value = row
        print(
            f"{name:18s} {steps:5d} {their_rate:20.8f} {rate:11.8f} "
            f"{their_value:16.8f} {value:11.8f}"
        )
    for name, (make, scale, exponent) in POWER_LAWS.items():
        found = power_law(make)
        print(
            f"best rate of {name}: {scale:.5f} T^{exponent:.4f} theirs, "
            f"{found[0]:.5f} T^{found[1]:.4f} stabjax"
        )


if __name__ == "__main__":
    main()
