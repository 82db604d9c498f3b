"""The cost of clipping in a sweep: many small trials under `vmap`, inside a scan.

python benchmarks/clip_overhead_vmap.py [--trials 65536] [--steps 200] [--rounds 9]

Each trial has two parameters and its own threshold, and descends L = w1^2 + w2^2. The
parameters are one array of two elements or two scalars. The clips alternate in random
order; medians. The yardstick is the plain factor `c / max(norm, c)`, which overflows
and has no derivative at zero. `benchmarks/README.md` has the results.
"""

import argparse
import random
import statistics

import jax
import jax.numpy as jnp
import optax
from clip_overhead import seconds
from jax import lax

import stabjax


def plain(max_norm):
    """The factor that everyone writes first."""

    def update(updates, state, params=None):
        del params
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(updates)))
        factor = max_norm / jnp.maximum(norm, max_norm)
        return jax.tree.map(lambda g: g * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


CLIPS = {
    "no clipping": lambda max_norm: optax.identity(),
    "c / max(norm, c)": plain,
    "optax": optax.clip_by_global_norm,
    "stabjax": stabjax.clip_by_global_norm,
}


def descent(make, steps, apart):
    """The program of all trials, with two scalars instead of an array if `apart`."""

    def loss(params):
        return sum(jnp.sum(w * w) for w in jax.tree.leaves(params))

    def trial(max_norm, params):
        optimizer = optax.chain(make(max_norm), optax.sgd(0.01))
        params = [*params] if apart else params

        def step(carry, _):
            params, state = carry
            grads = jax.grad(loss)(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = lax.scan(step, (params, optimizer.init(params)), length=steps)
        return params

    return jax.jit(jax.vmap(trial))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=65_536)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    print(f"{options.trials:,} trials of {options.steps} steps")
    for apart in (False, True):
        print("two scalars" if apart else "one array of two")
        compared(options, apart)


def compared(options, apart):
    max_norm = jnp.logspace(-2, 2, options.trials)
    params = jax.random.normal(jax.random.key(0), (options.trials, 2))
    programs = {n: descent(make, options.steps, apart) for n, make in CLIPS.items()}
    times = {name: [] for name in programs}
    shuffled = random.Random(0)
    for round_ in range(options.rounds + 1):
        for name, run in shuffled.sample([*programs.items()], len(programs)):
            took, _ = seconds(lambda: run(max_norm, params))  # noqa: B023
            if round_:  # the first one compiles
                times[name].append(took)

    medians = {name: statistics.median(t) for name, t in times.items()}
    yardstick = medians["c / max(norm, c)"]
    for name, median in medians.items():
        speed = options.trials * options.steps / median / 1e9
        print(
            f"  {name:18s} {speed:6.3f} G steps/s, "
            f"{median / yardstick:5.2f} of the time"
        )


if __name__ == "__main__":
    main()
