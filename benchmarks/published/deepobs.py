"""Reproduces the learning rate grids of DeepOBS's `quadratic_deep` in one sweep.

python benchmarks/published/deepobs.py [FILE] [--seeds 10]

DeepOBS (Schneider, Balles and Hennig, 2019, https://arxiv.org/abs/1903.05499) trains
SGD, SGD with momentum 0.99 and Adam at 36 learning rates, 108 points in all, for 100
epochs of 7 batches with 128 examples. The script rebuilds the problem, which is fixed
by NumPy's legacy seeds 42 and 43, and trains all points with every order
of the examples. FILE is a CSV
file with the published runs and their columns `optimizer`, `learning_rate`, `seed` and
`final_test_loss`. Without it, only the published figures below are compared.

Published runs differ from these by the order of the examples. The script prints the
final test losses of both, and the points at which one diverged and the other did not.
"""

import argparse
import csv

import jax
import jax.numpy as jnp
import numpy as np
import optax

import stabjax

DIM, EXAMPLES, BATCH, EPOCHS, NOISE = 100, 1000, 128, 100, 0.6
BATCHES = EXAMPLES // BATCH  # the rest of each epoch is dropped
RATES = 10.0 ** np.linspace(-5, 2, 36)
NAMES = {"sgd": "GradientDescent", "momentum": "Momentum", "adam": "Adam"}
# Optimizer, rate, final test loss and standard deviation over ten seeds. `None` is a
# single finite run, and inf a diverged one.
PUBLISHED = [
    ("sgd", 0.01, 87.28, 0.0),
    ("sgd", 0.0251, None, 0.0),
    ("sgd", 0.0398, np.inf, 0.0),
    ("momentum", 0.00251, 87.045, 0.025),
    ("adam", 0.0398, 87.112, 0.024),
]


def rotation(rng, dim):
    """A uniform rotation: reflections of growing size (Diaconis, Shahshahani 1987)."""
    angle = 2 * np.pi * rng.uniform()
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for size in range(3, dim + 1):
        axis = -rng.normal(size=size)
        axis /= np.linalg.norm(axis)
        axis[0] += 1
        axis /= np.linalg.norm(axis)
        larger = np.eye(size)
        larger[1:, 1:] = turn
        turn = larger - 2 * np.outer(axis, axis @ larger)
    return -turn


def quadratic_deep(orders):
    rng = np.random.RandomState(42)  # noqa: NPY002 - the published problem
    eigenvalues = np.append(rng.uniform(0, 1, 90), rng.uniform(30, 60, 10))
    turn = rotation(rng, DIM)
    hessian = jnp.asarray(turn.T * eigenvalues @ turn, jnp.float32)
    train, test = (
        jnp.asarray(
            np.random.RandomState(seed)  # noqa: NPY002 - the published data
            .normal(0, NOISE, (EXAMPLES, DIM))
            .astype(np.float32)
        )
        for seed in (42, 43)
    )
    test = test[: BATCHES * BATCH]

    def summarize(examples):
        """The mean of Q x and of x' Q x, which determine the mean loss."""
        pulled = examples @ hessian
        return pulled.mean(axis=0), jnp.mean(jnp.sum(pulled * examples, axis=1))

    def mean_loss(weights, summary):
        pull, offset = summary
        return weights @ (hessian @ weights / 2 - pull) + offset / 2

    held_out = summarize(test)
    # All batches of each order of the examples, as means of Q x and x' Q x.
    batches = [jax.lax.map(summarize, train[shuffled(seed)]) for seed in range(orders)]
    pulls, offsets = (jnp.stack(each) for each in zip(*batches, strict=True))

    def problem(order):
        def loss(weights, step):
            return mean_loss(weights, (pulls[order, step], offsets[order, step]))

        return stabjax.problems.Problem(
            lambda key: jnp.ones(DIM),
            loss,
            evaluate=lambda weights, key: {"test_loss": mean_loss(weights, held_out)},
            metadata={"name": "DeepOBS quadratic_deep", "final_loss": "test_loss"},
        )

    return problem


def shuffled(seed):
    """The examples of each batch of all epochs.

    TensorFlow 1 shuffles a reinitialized data set in the same order each time, so the
    batches of all epochs are equal.
    """
    order = np.random.default_rng(seed).permutation(EXAMPLES)[: BATCHES * BATCH]
    return np.tile(np.reshape(order, (BATCHES, BATCH)), (EPOCHS, 1))


def make_optimizer(optimizer, rate):
    return {
        "sgd": lambda: optax.sgd(rate),
        "momentum": lambda: optax.sgd(rate, momentum=0.99),
        "adam": lambda: optax.adam(rate),
    }[optimizer]()


def trained(rates=RATES, seeds=10):
    space = stabjax.grid(optimizer=list(NAMES), rate=rates, order=range(seeds))
    steps = EPOCHS * BATCHES
    return stabjax.sweep(
        quadratic_deep(seeds),
        make_optimizer,
        space,
        steps=steps,
        divergence_factor=np.inf,
    )


def losses_at(runs, optimizer, rate):
    point = runs.final_loss.sel(optimizer=optimizer)
    return point.sel(rate=rate, method="nearest").to_numpy()


def compare_with_file(runs, path):
    """Prints how the 108 published points compare, those at seed 42."""
    with open(path) as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "42"]
    print(f"\n{len(rows)} published points at seed 42")
    for name, published in NAMES.items():
        ours, theirs = [], []
        for row in rows:
            if row["optimizer"] == published:
                ours.append(losses_at(runs, name, float(row["learning_rate"])))
                theirs.append(float(row["final_test_loss"]))
        ours, theirs = np.array(ours), np.array(theirs)
        fails, failed = np.isinf(ours).all(axis=1), ~np.isfinite(theirs)
        tame = ~failed & np.isfinite(ours).all(axis=1) & (theirs < 100)
        ratio = np.abs(ours[tame].mean(axis=1) / theirs[tame] - 1)
        print(
            f"{name:9s} {len(theirs)} points: diverged {failed.sum()} theirs, "
            f"{fails.sum()} stabjax, both {np.sum(fails & failed)}; at the "
            f"{tame.sum()} points below 100 the loss differs by {ratio.mean():.2%} "
            f"on average, {ratio.max():.2%} at most"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    runs = trained(seeds=options.seeds)
    print(f"{'optimizer':9s} {'rate':>8s} {'published':>17s} {'stabjax':>17s}")
    for optimizer, rate, mean, spread in PUBLISHED:
        losses = losses_at(runs, optimizer, rate)
        theirs = "finite" if mean is None else f"{mean:.3f}"
        theirs += f" +- {spread:.3f}" if spread else ""
        ours = f"{losses.mean():.3f}"
        ours += f" +- {losses.std():.3f}" if np.isfinite(losses).all() else ""
        print(f"{optimizer:9s} {rate:8.5f} {theirs:>17s} {ours:>17s}")
    if options.file:
        compare_with_file(runs, options.file)


if __name__ == "__main__":
    main()
