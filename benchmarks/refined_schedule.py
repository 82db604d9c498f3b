"""Compares a refined schedule with the cosine schedule that it was refined from.

python benchmarks/refined_schedule.py [--seeds 32] [--steps 300]

A small network is trained on handwritten digits with SGD. A cosine schedule is trained
at 17 peak learning rates, and the schedule is refined from the median gradient norms at
the best peak. The refined schedule, the cosine schedule, a linear decay and a cosine
schedule with 10% warm-up are then trained at all 17 peaks with new seeds. The script
prints the mean final loss on all images at the best peak of each schedule, and the
number of seeds for which the schedule beats the cosine schedule.
"""

import argparse

import jax.numpy as jnp
import numpy as np
import optax

import stabjax

PEAKS = np.geomspace(0.05, 3.2, 17)
PROBLEM = stabjax.problems.digits_mlp()


def runs_of(named, peaks, seeds, steps, record_every=None):
    def make_optimizer(schedule, peak):
        shape = named[schedule]
        return optax.chain(
            stabjax.with_metrics(optax.identity(), name="raw"),
            optax.sgd(lambda count: peak * shape(count)),
        )

    space = stabjax.grid(schedule=list(named), peak=peaks, seed=seeds)
    return stabjax.sweep(
        PROBLEM, make_optimizer, space, steps=steps, record_every=record_every
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    seeds, steps = options.seeds, options.steps

    cosine = {"cosine": stabjax.cosine_decay_schedule(1.0, steps)}
    first = runs_of(cosine, PEAKS, range(seeds), steps)
    peak = PEAKS[int(first.train_loss.mean("seed").values.argmin())]
    recorded = runs_of(cosine, [peak], range(seeds), steps, record_every=1)
    norms = recorded.raw_grad_norm.median("seed").squeeze().values
    norms_at = (0, steps // 4, steps // 2, 3 * steps // 4, steps - 1)
    print(f"cosine: best peak {peak:.3g}; median gradient norms", norms[[*norms_at]])

    tenth = steps // 10
    named = cosine | {
        "cosine, warm-up": stabjax.warmup_cosine_decay_schedule(0.0, 1.0, tenth, steps),
        "linear": stabjax.linear_schedule(1.0, 0.0, steps),
        "refined": stabjax.refine_schedule(norms),
        "refined, power 1": stabjax.refine_schedule(norms, power=1.0),
    }
    values = np.asarray(named["refined"](jnp.array(norms_at)))
    print(f"refined schedule at steps {norms_at}:", values.round(4))
    runs = runs_of(named, PEAKS, range(1000, 1000 + seeds), steps)
    for variable in ("train_loss", "test_loss", "test_accuracy"):
        mean = runs.train_loss.mean("seed")  # selects the peak by training loss
        best = runs[variable].isel(peak=mean.argmin("peak"))
        reference = best.sel(schedule="cosine")
        print(f"\n{variable}, mean over {seeds} seeds at the best peak")
        for name in named:
            values = best.sel(schedule=name)
            difference = values - reference
            error = float(difference.std("seed", ddof=1)) / seeds**0.5
            lower = int((difference < 0).sum())
            at = PEAKS[int(mean.sel(schedule=name).values.argmin())]
            print(
                f"{name:18s} {float(values.mean()):.4f}   peak {at:.3g}   minus cosine"
                f" {float(difference.mean()):+.4f} +- {error:.4f}, lower in {lower}"
            )


if __name__ == "__main__":
    main()
