"""Compares clipped with constant steps where the curvature grows with the slope.

python benchmarks/published/relaxed_smoothness.py [--quick]

The quartic w^4 and cosh(w) - 1 satisfy |L''| <= L_0 + L_1 |L'|. Zhang et al., 2020
(https://arxiv.org/abs/1905.11881), prove that clipped gradient descent reaches a slope
of eps within 20 L_0 D / eps^2 + 20 max(1, L_1^2) D / L_0 steps, where D is the initial
loss above the minimum, while a constant rate needs a number of steps that grows with
the largest slope on the way. The script prints the steps that the best of 201 constant
rates needs, those of clipping at 1 with three rates, the reference values of
`docs/problems.md`, and the proven bound. With `--quick`, it omits the two starts at
which constant rates need more than 20,000 steps.
"""

import argparse

import numpy as np
import optax

import stabjax

EPS = 0.01
RATES, CLIPPED_RATES = np.logspace(-8, 2, 201), [0.1, 0.5, 1.0]
# The loss at which the slope is EPS.
TARGETS = {"quartic": (EPS / 4) ** (4 / 3), "cosh": np.sqrt(1 + EPS**2) - 1}
# Problem, start, and the fewest steps with a constant rate and with clipping.
REFERENCE = [
    ("quartic", 30, 13_522, (357, 69, 30)),
    ("quartic", 100, 151_877, (1057, 209, 100)),
    ("cosh", 10, 2_939, (134, 25, 10)),
    ("cosh", 12, 18_454, (154, 29, 12)),
    ("cosh", 20, np.inf, (234, 45, 20)),
]


def make_optimizer(rate, max_norm):
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))


def steps_to_target(name, start, rates, max_norm, steps):
    def problem(start):
        return getattr(stabjax.problems, name)(start=start, init_spread=0.0)

    space = stabjax.grid(start=[float(start)], rate=rates, max_norm=[max_norm])
    runs = stabjax.sweep(
        problem,
        make_optimizer,
        space,
        steps=steps,
        target_loss=TARGETS[name],
        progress=False,
    )
    return runs.target_at.to_numpy().ravel()


def proven(name, start):
    """The bound for clipped gradient descent, at the best constants of the problem."""
    if name == "cosh":
        constants, gap = [(1.0, 1.0)], np.cosh(start) - 1
    else:
        constants, gap = [(16 / l1**2, l1) for l1 in np.logspace(-3, 3, 601)], start**4
    return min(20 * gap * (l0 / EPS**2 + max(1, l1**2) / l0) for l0, l1 in constants)


def table(quick=False):
    rows = []
    for name, start, constant, clipped in REFERENCE:
        if quick and constant > 20_000:
            continue
        limit = 200_000 if constant > 1e5 else 2 * constant
        found = steps_to_target(name, start, RATES, np.inf, limit).min()
        limited = steps_to_target(name, start, CLIPPED_RATES, 1.0, 2 * max(clipped))
        rows.append((name, start, constant, found, clipped, limited))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    print(
        "problem  start  constant: reference  stabjax   clipped: reference        "
        "stabjax      proven bound"
    )
    for name, start, constant, found, clipped, limited in table(
        parser.parse_args().quick
    ):
        reference, ours = (
            " ".join(f"{steps:5.0f}" for steps in row) for row in (clipped, limited)
        )
        print(
            f"{name:8s} {start:5d} {constant:20,.0f} {found:8,.0f}   "
            f"{reference:>18s} {ours:>18s} {proven(name, start):13.1e}"
        )


if __name__ == "__main__":
    main()
