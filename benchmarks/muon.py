"""Measures where gradient clipping belongs with Muon, on a character transformer.

python benchmarks/muon.py [--text FILE] [--store FOLDER] [--seeds 8] [--quick]

Muon orthogonalizes the momentum of the layers' matrices, and AdamW trains the other
parameters. The script compares training without clipping with clipping the gradients of
all parameters together, those of AdamW alone and those of Muon alone, always before the
momentum. The learning rate and the threshold of each are tuned on a grid. One half of
the runs trains on clean gradients. In the other half, 2% of the gradients are
multiplied by 100 N(0, 1).

All runs are one program. The script prints, for clean and for spiked gradients, the
validation losses at the tuned settings and their differences by seed.
"""

import argparse
import dataclasses
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import stabjax

STEPS = 500
SHARE, SIZE = 0.02, 100.0  # of the spikes
PLACEMENTS = ["none", "all", "AdamW", "Muon"]
RATES = 1e-3 * 2.0 ** np.arange(6)
MAX_NORMS = [0.03, 0.1, 0.3, 1.0]


def make_optimizer(placement, max_norm, rate, steps=STEPS):
    """Muon and AdamW with clipping at `PLACEMENTS[placement]`."""

    def clip(name):
        here = placement == PLACEMENTS.index(name)
        return stabjax.clip_by_global_norm(jnp.where(here, max_norm, jnp.inf))

    schedule = stabjax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
    groups = {
        "muon": optax.chain(
            clip("Muon"), optax.contrib.muon(schedule, consistent_rms=0.2)
        ),
        "adamw": optax.chain(clip("AdamW"), optax.adamw(schedule)),
    }
    paths = {"layers/*kernel": "muon", "*": "adamw"}
    return optax.chain(clip("all"), stabjax.by_group(groups, paths))


def spiked(base):
    """Returns a problem factory in which a share of the gradients has a random size."""

    def problem(spikes):
        def loss(params, key):
            value = base.loss(params, key)
            own, size = jax.random.split(jax.random.fold_in(key, 1))
            spike = spikes * jax.random.bernoulli(own, SHARE)
            factor = jnp.where(spike, SIZE * jax.random.normal(size), 1.0)
            return value + (factor - 1) * (value - jax.lax.stop_gradient(value))

        return dataclasses.replace(base, loss=loss)

    return problem


def space(seeds, rates=RATES, max_norms=MAX_NORMS):
    settings = [(0, np.inf)]
    settings += [(k, c) for k in range(1, len(PLACEMENTS)) for c in max_norms]
    placement, max_norm = zip(*settings, strict=True)
    clipping = stabjax.zipped(placement=placement, max_norm=max_norm)
    return (
        stabjax.grid(spikes=[0, 1], seed=range(seeds))
        * clipping
        * stabjax.grid(rate=rates)
    )


def trained(text, seeds, *, steps=STEPS, store=None, **sizes):
    """Trains all runs, or those that the store lacks."""
    shape = {"layers": 2, "width": 64, "context": 32, "batch_size": 16}
    base = stabjax.problems.char_transformer(text=text, **shape)
    return stabjax.sweep(
        spiked(base),
        functools.partial(make_optimizer, steps=steps),
        space(seeds, **sizes),
        steps=steps,
        store=store,
        progress=False,
    )


def report(runs):
    """Prints the table and returns the comparison of each half of the runs."""
    names = [PLACEMENTS[int(k)] for k in runs.placement.values]
    runs, found = runs.assign_coords(placement=(runs.placement.dims, names)), {}
    print("| gradients | clipped | loss | rate | max_norm | difference | p |")
    print("|---" * 7 + "|")
    for spikes, name in enumerate(["clean", "spiked"]):
        part = runs.isel(spikes=spikes, drop=True)
        answer = stabjax.runs.compare(
            part, "placement", baseline="none", variable="test_loss"
        )
        differences = {d.treatment: d for d in answer.differences}
        for placement, settings, mean, _ in answer.treatments:
            row = [name, placement, f"{mean:.4f}"]
            row += [f"{settings[axis]:.3g}" for axis in ("rate", "max_norm")]
            pair = differences.get(placement)
            row += [str(pair.difference), f"{pair.p_value:.2g}"] if pair else ["", ""]
            print(f"| {' | '.join(row)} |")
        found[name] = answer
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=pathlib.Path, help="a text file to train on")
    parser.add_argument("--store", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    sizes = {}
    if options.quick:
        sizes = {"steps": 20, "rates": [2e-3, 8e-3], "max_norms": [0.1]}
    start = time.perf_counter()
    runs = trained(options.text, options.seeds, store=options.store, **sizes)
    print(f"{runs.test_loss.size} runs: {time.perf_counter() - start:.0f} s")
    return report(runs)


if __name__ == "__main__":
    main()
