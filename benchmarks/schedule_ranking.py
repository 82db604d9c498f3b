"""Compares the ranking of schedules by the convex bound with measured losses.

python benchmarks/schedule_ranking.py [--seeds 128]

Each schedule is trained with 400 steps of SGD at 25 base learning rates and with many
seeds on two convex, nonsmooth problems. One is absolute regression, E |a . x - n|, with
Gaussian a in 20 dimensions, noise n and one example per step. The other is the maximum
of |a_i . x| over 100 fixed unit vectors in 100 dimensions. All schedules use the same
initial weights and examples. The script prints the mean final loss minus its minimum at
the best base rate.
"""

import argparse

import jax
import jax.numpy as jnp
import optax

import stabjax

STEPS = 400
SCHEDULES = {
    "linear": stabjax.linear_schedule(1.0, 0.0, STEPS),
    "cosine": stabjax.cosine_decay_schedule(1.0, STEPS),
    "wsd 0.4": stabjax.wsd_schedule(1.0, 0, 240, 160),
    "wsd 0.2": stabjax.wsd_schedule(1.0, 0, 320, 80),
    "1/sqrt": stabjax.inverse_sqrt_schedule(1.0, 1),
    "constant": stabjax.constant_schedule(1.0),
}


def absolute_regression(size=20):
    def init(key):
        return jax.random.normal(key, (size,))

    def loss(x, key):
        for_a, for_n = jax.random.split(key)
        error = jax.random.normal(for_a, (size,)) @ x
        return jnp.abs(error - jax.random.normal(for_n))

    def evaluate(x, key):
        # E |N(0, s^2)| = s sqrt(2 / pi). The minimum is the loss due to the noise.
        spread = jnp.sqrt(jnp.sum(jnp.square(x)) + 1)
        return {"gap": jnp.sqrt(2 / jnp.pi) * (spread - 1)}

    return stabjax.problems.Problem(init, loss, evaluate)


def maximum_of_many(size=100):
    slopes = jax.random.normal(jax.random.key(0), (size, size))
    slopes /= jnp.linalg.norm(slopes, axis=1, keepdims=True)

    def init(key):
        x = jax.random.normal(key, (size,))
        return x / jnp.linalg.norm(x)

    def loss(x, key):
        return jnp.max(jnp.abs(slopes @ x))

    def evaluate(x, key):
        return {"gap": loss(x, key)}

    return stabjax.problems.Problem(init, loss, evaluate)


def make_optimizer(schedule, rate):
    shape = SCHEDULES[schedule]
    return optax.sgd(lambda count: rate * shape(count))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=128)
    seeds = parser.parse_args().seeds

    bounds = {
        name: float(stabjax.schedule_bound(schedule, STEPS).best_value)
        for name, schedule in SCHEDULES.items()
    }
    space = stabjax.grid(
        schedule=list(SCHEDULES), rate=jnp.geomspace(1e-3, 1.0, 25), seed=range(seeds)
    )
    for problem in (absolute_regression(), maximum_of_many()):
        runs = stabjax.sweep(problem, make_optimizer, space, steps=STEPS)
        report(runs, bounds)


def report(runs, bounds):
    print(f"\n{'schedule':10s} {'bound':>8s} {'measured gap':>20s} {'rate':>8s}")
    mean = runs.gap.mean("seed")
    for name in sorted(SCHEDULES, key=bounds.get):
        best = int(mean.sel(schedule=name).values.argmin())
        gap = runs.gap.sel(schedule=name).isel(rate=best)
        error = float(gap.std("seed", ddof=1)) / gap.sizes["seed"] ** 0.5
        measured = f"{float(gap.mean()):.4f} +- {error:.4f}"
        rate = float(runs.rate[best])
        print(f"{name:10s} {bounds[name]:8.4f} {measured:>20s} {rate:8.3g}")


if __name__ == "__main__":
    main()
