"""Compares successive halving with a full sweep on the digits network.

python benchmarks/halving.py [--repeats 5]

The space has 8 thresholds, 24 peak learning rates and 4 seeds. The optimizer is clipped
SGD with momentum and a cosine schedule with warm-up over 400 steps. Points are ranked
by their loss on held-out images. In each repeat, both searches select a point with new
seeds. Both points are then trained with 64 other seeds, because the loss of the best of
many points is biased. `regret` is the additional loss of the point selected by halving,
with the standard error of the paired difference. Times exclude compilation.
"""

import argparse
import statistics

import jax.numpy as jnp
import numpy as np
import optax

import stabjax

STEPS, SEEDS, FRESH = 400, 4, 64
PROBLEM = stabjax.problems.digits_mlp()


def make_optimizer(max_norm, peak_value):
    schedule = stabjax.warmup_cosine_decay_schedule(0.0, peak_value, 40, STEPS)
    clip = stabjax.clip_by_global_norm(max_norm)
    return optax.chain(clip, optax.sgd(schedule, momentum=0.9))


def retrained(points):
    """Returns the held-out loss of each point for all new seeds."""
    axes = {name: [point[name] for point in points] for name in points[0]}
    space = stabjax.zipped(**axes) * stabjax.grid(seed=range(10_000, 10_000 + FRESH))
    runs = stabjax.sweep(PROBLEM, make_optimizer, space, steps=STEPS, progress=False)
    return runs.test_loss.values


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats

    chosen, shares, times, ranks = [], [], [], []
    for repeat in range(repeats):
        space = stabjax.grid(
            max_norm=jnp.logspace(-1, 1, 8),
            peak_value=jnp.logspace(-3, 1, 24),
            seed=range(repeat * SEEDS, (repeat + 1) * SEEDS),
        )
        given = (PROBLEM, make_optimizer, space)
        full = stabjax.sweep(*given, steps=STEPS, progress=False)
        halved = stabjax.successive_halving(*given, steps=STEPS, variable="test_loss")
        found = stabjax.runs.best(halved, "test_loss").point
        chosen += [stabjax.runs.best(full, "test_loss").point, found]
        mean = full.test_loss.mean("seed")
        ranks.append(int((mean < mean.sel(found)).sum()) + 1)
        shares.append(halved.attrs["share_of_steps"])
        times.append(halved.attrs["seconds"] / full.attrs["seconds"])

    losses = retrained(chosen)
    print("repeat  full sweep  halving   regret  noise  rank of 192  steps  time")
    for repeat in range(repeats):
        full, halved = losses[2 * repeat], losses[2 * repeat + 1]
        noise = (halved - full).std(ddof=1) / np.sqrt(FRESH)
        print(
            f"{repeat:6d}  {full.mean():10.4f}  {halved.mean():7.4f}"
            f"  {(halved - full).mean():7.4f} {noise:6.4f}  {ranks[repeat]:11d}"
            f"  {shares[repeat]:5.3f} {times[repeat]:5.2f}"
        )
    print(
        f"halving took {statistics.median(shares):.3f} of the steps "
        f"and {statistics.median(times):.2f} of the time (medians)"
    )


if __name__ == "__main__":
    main()
