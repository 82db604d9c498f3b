"""Learns a clipping threshold and a peak learning rate by gradient descent.

`stabjax.train` is a pure function, so `jax.grad` can differentiate through all steps.
This example minimizes the final loss of a run with respect to the logarithms of the
threshold and the peak learning rate, from 1,000 initial points in parallel. A sweep
over the same two hyperparameters provides a map for comparison.

    python examples/hypergradient.py
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import stabjax

STEPS, SEEDS = 200, 4
LOW, HIGH = np.array([-1.0, -3.5]), np.array([4.0, 0.5])  # log10: threshold, peak rate
FLOOR = 1e-6  # losses below this value count as equal


def make_optimizer(max_norm, peak_value):
    schedule = stabjax.warmup_cosine_decay_schedule(
        0.0, peak_value, warmup_steps=10, decay_steps=STEPS
    )
    return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(schedule))


def outcome(problem, logs):
    """Returns the mean of log10(final loss) over the seeds."""

    def final_loss(seed):
        optimizer = make_optimizer(*(10.0**logs))
        run = stabjax.train(problem, optimizer, jax.random.key(seed), steps=STEPS)
        return run.final_loss

    return jnp.mean(jnp.log10(jax.vmap(final_loss)(jnp.arange(SEEDS)) + FLOOR))


def learn(problem, start, rounds):
    """Runs gradient descent and returns the best point and loss after each round."""
    # A diverged run has no useful gradient. Gradients are very large near the
    # stability boundary, so the outer optimizer also uses clipping.
    outer = optax.chain(
        optax.zero_nans(),
        stabjax.clip_by_global_norm(1.0),
        optax.adam(stabjax.cosine_decay_schedule(0.1, rounds)),
    )

    def step(carry, _):
        logs, state, best, least = carry
        value, slope = jax.value_and_grad(outcome, argnums=1)(problem, logs)
        best = jnp.where(value < least, logs, best)
        least = jnp.minimum(value, least)
        updates, state = outer.update(slope, state, logs)
        # If a step crosses the boundary, the next step starts from the best point.
        base = jnp.where(jnp.isfinite(value), logs, best)
        logs = jnp.clip(optax.apply_updates(base, updates), LOW, HIGH)
        return (logs, state, best, least), (best, least)

    carry = (start, outer.init(start), start, jnp.inf)
    return jax.lax.scan(step, carry, length=rounds)[1]


def map_of(problem, resolution):
    """Computes the same objective on a grid with a sweep."""
    thresholds, peaks = np.logspace(LOW, HIGH, resolution).T
    space = stabjax.grid(max_norm=thresholds, peak_value=peaks, seed=range(SEEDS))
    runs = stabjax.sweep(problem, make_optimizer, space, steps=STEPS)
    return np.log10(runs.final_loss + FLOOR).mean("seed")


def draw(known, paths, values, path):
    fig, (left, right) = plt.subplots(
        ncols=2, figsize=(11, 4.8), width_ratios=(1.5, 1), layout="constrained"
    )
    image = left.pcolormesh(
        known.max_norm,
        known.peak_value,
        known.where(np.isfinite(known)).T,
        cmap="viridis",
        rasterized=True,
    )
    fig.colorbar(image, ax=left, label="mean of log10(final loss)")
    left.set_facecolor("0.85")
    stable = np.isfinite(values[:, 0])
    shown = np.flatnonzero(stable)[:150]
    for way in paths[shown]:
        left.plot(*(10.0**way.T), color="white", linewidth=0.5, alpha=0.6)
    left.plot(*(10.0 ** paths[shown, 0].T), "o", color="white", markersize=2)
    left.plot(*(10.0 ** paths[shown, -1].T), "o", color="crimson", markersize=3)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="clipping threshold",
        ylabel="peak learning rate",
        title="white: 150 paths; red: final points; gray: diverged",
    )
    share = np.linspace(0, 1, len(values))
    for column, label, colour in (
        (0, "initially", "0.5"),
        (-1, "learnt", "crimson"),
    ):
        right.plot(np.sort(values[:, column]), share, color=colour, label=label)
    right.axvline(float(known.min()), color="black", linestyle=":", label="best of map")
    right.set(
        xlabel="mean of log10(final loss)",
        ylabel="fraction of runs at or below",
        title=f"{len(values):,} initial points; the others diverge",
    )
    right.legend()
    fig.savefig(path, dpi=140)
    plt.close(fig)


def main(arguments=None):
    """Returns the stable fraction and the median loss before and after learning."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=1000)
    parser.add_argument(
        "--rounds", type=int, default=100, help="steps of the outer optimizer"
    )
    parser.add_argument("--resolution", type=int, default=96, help="map resolution")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("pictures"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = stabjax.problems.rosenbrock()
    known = map_of(problem, options.resolution)

    starts = jax.random.uniform(
        jax.random.key(0), (options.starts, 2), minval=jnp.array(LOW), maxval=HIGH
    )
    clock = time.perf_counter()
    learn_all = jax.jit(jax.vmap(lambda start: learn(problem, start, options.rounds)))
    paths, values = map(np.asarray, jax.block_until_ready(learn_all(starts)))
    seconds = time.perf_counter() - clock

    best = float(known.min())
    runs = options.starts * options.rounds * SEEDS
    print(f"{runs:,} runs differentiated in {seconds:.1f} s, including compilation")
    print(f"mean of log10(final loss): best of the map {best:.2f}")
    summary = {}
    for column, when in ((0, "initially"), (-1, "learned")):
        stable = np.isfinite(values[:, column])
        near = np.mean(values[:, column] < best + 0.3)
        median = np.median(values[stable, column])
        summary[when] = {"stable": stable.mean(), "near": near, "median": median}
        print(
            f"{when}: {stable.mean():.0%} stable with a median of {median:.2f}, "
            f"{near:.0%} within a factor of 2 of the map's best"
        )
    draw(known, paths, values, options.out / "hypergradient.png")
    return summary


if __name__ == "__main__":
    main()
