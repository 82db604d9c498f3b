"""Trains a network in plain JAX with accumulation, grouped clipping and exact resume.

Gradients are accumulated over four microbatches. Clipping is inside `optax.MultiSteps`,
so it acts on the mean gradient, with a lower threshold for the output layer than for
the hidden layer. The guard is outside, so that a NaN microbatch is skipped before it
enters the mean. A run resumed from an Orbax checkpoint gives the same losses.

    python examples/plain_jax_accumulation.py
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

import stabjax

STEPS, MICROBATCHES, BATCH = 240, 4, 32


def make_optimizer():
    schedule = stabjax.warmup_cosine_decay_schedule(0.0, 0.02, 5, STEPS // MICROBATCHES)
    clip = stabjax.by_group(
        {
            "hidden": stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), "clip"),
            "output": stabjax.with_metrics(stabjax.clip_by_global_norm(0.1), "clip"),
            "bias": optax.identity(),  # biases are not clipped
        },
        {"*/bias": "bias", "hidden/*": "hidden", "output/*": "output"},
    )
    chain = optax.chain(clip, stabjax.with_learning_rate(optax.adamw, schedule))
    accumulated = optax.MultiSteps(chain, MICROBATCHES).gradient_transformation()
    return stabjax.skip_if_nonfinite(accumulated)


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {
            "kernel": jax.random.normal(first, (8, 32)) / 3,
            "bias": jnp.zeros(32),
        },
        "output": {
            "kernel": jax.random.normal(second, (32, 1)) / 6,
            "bias": jnp.zeros(1),
        },
    }


def loss_of(params, x):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    y = hidden @ params["output"]["kernel"] + params["output"]["bias"]
    return jnp.mean((y[:, 0] - jnp.tanh(x[:, 0] - x[:, 1])) ** 2)


optimizer = make_optimizer()


@jax.jit
def train_step(params, opt_state, step):
    x = jax.random.normal(jax.random.fold_in(jax.random.key(1), step), (BATCH, 8))
    x = jnp.where(step == 50, jnp.nan, x)  # one microbatch is corrupt
    loss, grads = jax.value_and_grad(loss_of)(params, x)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def train(params, opt_state, start, stop):
    losses = []
    for step in range(start, stop):
        params, opt_state, loss = train_step(params, opt_state, step)
        losses.append(float(loss))
    return params, opt_state, losses


def main():
    params = init(jax.random.key(0))
    params, opt_state, _ = train(params, optimizer.init(params), 0, STEPS // 2)

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "checkpoint"
        saved = {"params": params, "opt_state": opt_state}
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, saved)
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(path, jax.eval_shape(lambda: saved))

    rest = train(params, opt_state, STEPS // 2, STEPS)[2]
    resumed = train(restored["params"], restored["opt_state"], STEPS // 2, STEPS)
    recorded = {k: float(v) for k, v in stabjax.metrics(resumed[1]).items()}
    print(recorded)
    print(f"the resumed losses are identical: {resumed[2] == rest}")
    return rest, resumed[2], recorded


if __name__ == "__main__":
    main()
