"""Compares the success rates of clipping methods on problems that need clipping.

python benchmarks/methods.py [--quick] [--out docs]

All methods use the same optimizer, learning rates and seeds, a threshold of 1 and
mostly default values for other arguments. Each problem is a single sweep with the
method as a static axis. The script saves `methods.png` and prints a table with the
percentage of runs that reach the target, the percentage of runs that diverge, and the
median number of steps to the target.
"""

import argparse
import dataclasses
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt  # noqa: TID251
import numpy as np
import optax

import stabjax
from stabjax import problems


def before(transformation):
    return lambda rate: optax.chain(transformation, optax.sgd(rate))


def instead(transformation):
    return lambda rate: optax.chain(transformation, optax.scale_by_learning_rate(rate))


METHODS = {
    "SGD": optax.sgd,
    "clip": before(stabjax.clip(1.0)),
    "clip_by_global_norm": before(stabjax.clip_by_global_norm(1.0)),
    "clip_by_block_norm": before(stabjax.clip_by_block_norm(1.0)),
    "clip_by_block_rms": before(stabjax.clip_by_block_rms(1.0)),
    "smooth_clip_by_global_norm": before(stabjax.smooth_clip_by_global_norm(1.0)),
    "normalize_by_update_norm": before(stabjax.normalize_by_update_norm()),
    "adaptive_grad_clip": before(stabjax.adaptive_grad_clip(0.1)),
    "clip_by_percentile": before(stabjax.clip_by_percentile(window=100)),
    "clip_update_norm": before(stabjax.clip_update_norm()),
    "zclip": before(stabjax.zclip()),
    "adagc": before(stabjax.adagc()),
    "clip_by_norm_ratio": before(stabjax.clip_by_norm_ratio(1.5)),
    "limit_norm_growth": before(stabjax.limit_norm_growth()),
    "clip_by_second_moment": before(stabjax.clip_by_second_moment()),
    "clip_by_tracked_max": before(stabjax.clip_by_tracked_max()),
    "normalize_by_tracked_norm": before(stabjax.normalize_by_tracked_norm()),
    "adopt_clip": before(stabjax.adopt_clip()),
    "clip_by_relative_update": lambda rate: optax.chain(
        optax.sgd(rate), stabjax.clip_by_relative_update()
    ),
    "skip_if_nonfinite": lambda rate: stabjax.skip_if_nonfinite(optax.sgd(rate)),
    "skip_above_norm": lambda rate: stabjax.skip_above_norm(optax.sgd(rate), 10.0),
    "skip_on_spike": lambda rate: stabjax.skip_on_spike(optax.sgd(rate), window=32),
    "Adam": optax.adam,
    "scale_by_stable_adam": instead(stabjax.scale_by_stable_adam()),
    "scale_by_spam": instead(stabjax.scale_by_spam()),
    "scale_by_stable_spam": instead(stabjax.scale_by_stable_spam()),
    "reset_moments, Adam": instead(stabjax.reset_moments(optax.scale_by_adam(), 100)),
}


def spiked_digits(share=0.02, size=1000.0):
    """Returns the digits problem with 2% of the gradients scaled by 1000."""
    problem = problems.digits_mlp(hidden=16, batch_size=32)

    def loss(params, key):
        value = problem.loss(params, key)
        spike = jax.random.bernoulli(jax.random.fold_in(key, 1), share)
        extra = value - jax.lax.stop_gradient(
            value
        )  # zero, with the same derivative as `value`
        return value + jnp.where(spike, size, 0.0) * extra

    return dataclasses.replace(problem, loss=loss)


# Name -> (problem, target loss, steps).
PROBLEMS = {
    "adding": (problems.adding(1.5, length=20, hidden=16, batch_size=16), 0.16, 200),
    "heavy tails": (problems.heavy_tailed_quadratic(), 0.3, 500),
    "cliff": (problems.single_unit_rnn(length=20), 1e-4, 300),
    "spiked digits": (spiked_digits(), 0.3, 200),
    "quartic": (problems.quartic(), 1e-3, 500),
    "cosh": (problems.cosh(), 1e-3, 500),
}


def make_optimizer(method, rate):
    return METHODS[method](rate)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs"))
    options = parser.parse_args(arguments)
    methods, chosen, seeds = list(METHODS), PROBLEMS, range(4)
    if options.quick:
        methods, seeds = methods[:3], range(2)
        chosen = {name: PROBLEMS[name] for name in ("heavy tails", "cosh")}
    rates = [0.001, 0.01, 0.1, 1.0, 10.0]
    space = stabjax.grid(method=methods, rate=rates, seed=seeds)
    reached, diverged, took = {}, {}, {}
    for name, (problem, target, steps) in chosen.items():
        start = time.perf_counter()
        runs = stabjax.sweep(
            problem,
            make_optimizer,
            space,
            steps=steps,
            target_loss=target,
            progress=False,
        )
        held = (runs.status == 0) & (runs.final_loss <= target)
        reached[name] = 100 * held.mean(("rate", "seed")).values
        diverged[name] = 100 * (runs.status == 1).mean(("rate", "seed")).values
        steps_taken = runs.target_at.where(held).stack(run=("rate", "seed"))
        took[name] = steps_taken.median("run").values
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(table(methods, reached, diverged, took))
    draw(methods, reached, options.out / "methods.png")
    return reached


def table(methods, reached, diverged, took):
    rows = [f"| method | {' | '.join(reached)} |", "|---" * (len(reached) + 1) + "|"]
    for i, method in enumerate(methods):
        cells = (
            f"{reached[n][i]:.0f} / {diverged[n][i]:.0f} / "
            + (f"{took[n][i]:.0f}" if np.isfinite(took[n][i]) else "-")
            for n in reached
        )
        rows.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(methods, reached, path):
    figure, axes = plt.subplots(figsize=(7, 1 + 0.25 * len(methods)))
    image = axes.imshow(np.array(list(reached.values())).T, aspect="auto", vmin=0)
    axes.set_xticks(range(len(reached)), reached, rotation=20)
    axes.set_yticks(range(len(methods)), methods)
    figure.colorbar(image, label="runs that reach the target (%)")
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
