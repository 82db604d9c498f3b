"""How the cost of `clip_by_global_norm` depends on what is measured beside it.

python benchmarks/clip_overhead_settings.py [--rounds 15]

The arrays and the unit are those of clip_overhead.py. The same clip is put before AdamW
and SGD, with parameters and state donated or not, and alone. On two cores (CPU time,
other processes running) it adds

    alone, against a program that writes as many arrays     1.4 passes
    before AdamW or SGD, donated                            0.7 to 0.8
    before SGD, not donated                                 0.7

so scripts that time `update` alone find 1.5 where a training step pays 0.5 to 0.8: in a
step the product with the factor joins a loop that waits for memory, and costs nothing.
Without donation AdamW writes three fresh trees, whose page faults vary by more than the
clip.
"""

import argparse
import random
import statistics
from functools import partial

import jax
import jax.numpy as jnp
import optax
from clip_overhead import ADAMW, timed, transformer_shapes

import stabjax

CLIP = stabjax.clip_by_global_norm(1.0)
SETTINGS = {
    "AdamW, donated": (ADAMW, True),
    "AdamW, not donated": (ADAMW, False),
    "SGD, donated": (optax.sgd(1e-3), True),
    "SGD, not donated": (optax.sgd(1e-3), False),
    "alone": (None, False),
}


def make_step(base, donated, clips):
    if base is None:  # as many arrays are written, from as many that are read
        clip = CLIP.update if clips else lambda g, s: (jax.tree.map(jnp.negative, g), s)
        return jax.jit(lambda params, state, grads: (params, clip(grads, None)[0]))
    optimizer = optax.chain(CLIP, base) if clips else base

    @partial(jax.jit, donate_argnums=(0, 1) if donated else ())
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds

    keys, shapes = jax.random.split(jax.random.key(0), 148), transformer_shapes()
    grads = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
    norm_pass = jax.jit(lambda tree: jnp.sqrt(sum(jnp.sum(g * g) for g in tree)))
    steps, held = {}, {}
    for name, (base, donated) in SETTINGS.items():
        for clips in (False, True):
            steps[name, clips] = make_step(base, donated, clips)
            params = jax.tree.map(jnp.ones_like, grads)
            optimizer = optax.chain(CLIP, base) if clips and base else base
            state = optimizer.init(params) if base else None
            held[name, clips] = params, jax.tree.map(jnp.copy, state)

    times = {key: [] for key in [*steps, "norm pass"]}
    shuffled = random.Random(0)
    for _ in range(rounds + 3):
        for key, step in shuffled.sample([*steps.items()], len(steps)):
            *took, made = timed(lambda: step(*held[key], grads))  # noqa: B023
            if SETTINGS[key[0]][1]:
                held[key] = made
            del made
            times[key].append(took)
        *took, _ = timed(lambda: norm_pass(grads))
        times["norm pass"].append(took)

    medians = {
        key: [statistics.median(values) for values in zip(*found[3:], strict=True)]
        for key, found in times.items()
    }
    unit = medians["norm pass"]
    print(f"one norm pass: {unit[0] * 1e3:.1f} ms, {unit[1] * 1e3:.1f} ms of CPU time")
    for name in SETTINGS:
        pair = zip(medians[name, False], medians[name, True], unit, strict=True)
        wall, busy = ((clipped - plain) / one for plain, clipped, one in pair)
        print(f"{name:20s} clipping adds {wall:5.2f} passes, {busy:5.2f} of CPU time")


if __name__ == "__main__":
    main()
