"""Trains a Flax NNX transformer with float16 gradients that overflow Optax's clipping.

The float32 weights are cast to float16 for the forward and backward pass, and the loss
is multiplied by 1024 to prevent underflow of small gradients. These gradients have a
norm of several thousand. Optax sums their squares in float16, whose largest value is
65,504. The norm overflows to inf, and the clipped update is zero. In contrast,
`stabjax.clip_by_global_norm` returns an update with the requested norm.

    python examples/flax_nnx_transformer_float16.py                  # trains with both
    python examples/flax_nnx_transformer_float16.py --logdir runs    # for TensorBoard
    python examples/flax_nnx_transformer_float16.py --checkpoint /tmp/transformer

With --checkpoint, the script saves a checkpoint halfway through training, and the next
call resumes with bitwise identical results. --checkpoint requires orbax-checkpoint, and
--logdir requires tensorboardX.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import stabjax

LOSS_SCALE = 1024.0
CONTEXT, WIDTH, HEADS, BATCH = 32, 64, 4, 16


class Block(nnx.Module):
    """Transformer block that computes in the dtype of the weights."""

    def __init__(self, rngs):
        self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.heads = nnx.Linear(WIDTH, 3 * WIDTH, use_bias=False, rngs=rngs)
        self.mixed = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)
        self.hidden = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.output = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, h):
        heads = self.heads(self.norms[0](h)).reshape(*h.shape[:2], 3, HEADS, -1)
        query, key, value = jnp.moveaxis(heads, 2, 0)
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        h = h + self.mixed(attended.reshape(h.shape))
        return h + self.output(nnx.gelu(self.hidden(self.norms[1](h))))


class Transformer(nnx.Module):
    """Transformer with two blocks that predicts the next character."""

    def __init__(self, characters, rngs):
        self.character = nnx.Embed(characters, WIDTH, rngs=rngs)
        self.place = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.logits = nnx.Linear(WIDTH, characters, rngs=rngs)

    def __call__(self, codes):
        h = self.character(codes) + self.place(jnp.arange(CONTEXT))
        for block in self.blocks:
            h = block(h)
        return self.logits(self.norm(h))


def unscaled(scale):
    """Casts gradients to float32 and removes the loss scale."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda g: g.astype(jnp.float32) / scale, updates
        )
    )


def make_optimizer(clip, steps):
    schedule = stabjax.warmup_cosine_decay_schedule(
        0.0, 3e-3, warmup_steps=steps // 10, decay_steps=steps
    )
    # The threshold applies to the scaled gradients. If a gradient overflows, the guard
    # skips the step and leaves the weights and moments unchanged.
    return stabjax.skip_if_nonfinite(
        optax.chain(
            stabjax.with_metrics(clip(1.0 * LOSS_SCALE), name="clip"),
            unscaled(LOSS_SCALE),
            optax.adamw(schedule, weight_decay=0.0),
        )
    )


def make_step(graph, tx, text):
    """Returns a reproducible training step that depends only on the step number."""

    def loss_of(half, key):
        starts = jax.random.randint(key, (BATCH,), 0, len(text) - CONTEXT)
        windows = text[starts[:, None] + jnp.arange(CONTEXT + 1)]
        logits = nnx.merge(graph, half)(windows[:, :-1]).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])
        return LOSS_SCALE * losses.mean()

    @jax.jit
    def step(params, opt_state, number):
        half = jax.tree.map(lambda w: w.astype(jnp.float16), params)
        key = jax.random.fold_in(jax.random.key(1), number)
        scaled_loss, grads = jax.value_and_grad(loss_of)(half, key)
        updates, opt_state = tx.update(grads, opt_state, params)
        moved = optax.global_norm(updates)
        params = optax.apply_updates(params, updates)
        return params, opt_state, scaled_loss / LOSS_SCALE, moved

    return step


def train(clip, options, *, checkpoint=None, writer=None):
    """Trains a model and returns the loss at each step and the final weights."""
    characters, codes = np.unique(
        list(stabjax.problems.markov_text()), return_inverse=True
    )
    model = Transformer(len(characters), nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    tx = make_optimizer(clip, options.steps)
    state = (params, tx.init(params))
    first = 0
    if checkpoint is not None and checkpoint.exists():
        state, first = restored(checkpoint, state, options.steps)
        print(f"resumed from {checkpoint} at step {first}")
    step = make_step(graph, tx, jnp.asarray(codes))
    losses = []
    for number in range(first, options.steps):
        if checkpoint is not None and number == options.steps // 2 and not first:
            save(checkpoint, state, number, options.steps)
        *state, loss, moved = step(*state, number)
        losses.append(float(loss))
        if number % 20 == 0:
            seen = {"loss": loss, "moved": moved, **stabjax.metrics(state[1])}
            logged = {name: round(float(value), 4) for name, value in seen.items()}
            print(f"step {number}: {logged}")
            for name, value in logged.items():
                if writer is not None:
                    writer.add_scalar(name, value, number)
    return losses, state[0]


def save(path, state, number, steps):
    import orbax.checkpoint as ocp

    saved = {"state": state, "number": number, "steps": steps}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, saved)


def restored(path, like, steps):
    """Restores the saved state and step number, and checks the number of steps."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.restore(path, {"state": like, "number": 0, "steps": 0})
    if saved["steps"] != steps:
        raise SystemExit(  # the schedule depends on the number of steps
            f"{path} belongs to a run with {saved['steps']} steps, not {steps}."
            " Change --steps or --checkpoint."
        )
    return saved["state"], saved["number"]


def main(arguments=None):
    """Trains with both clipping functions and returns their losses by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--checkpoint", type=pathlib.Path)
    parser.add_argument("--logdir", type=pathlib.Path)
    options = parser.parse_args(arguments)

    writer = None
    if options.logdir is not None:
        from tensorboardX import SummaryWriter

        writer = SummaryWriter(str(options.logdir))

    found = {}
    for clip in (optax.clip_by_global_norm, stabjax.clip_by_global_norm):
        name = clip.__module__.split(".")[0]
        print(f"{name}.clip_by_global_norm")
        own = name == "stabjax"
        checkpoint = (
            options.checkpoint.absolute() if own and options.checkpoint else None
        )
        found[name], _ = train(
            clip, options, checkpoint=checkpoint, writer=writer if own else None
        )
    if writer is not None:
        writer.close()
    for name, losses in found.items():
        first, last = np.mean(losses[:5]), np.mean(losses[-20:])
        print(f"{name}: initial loss {first:.3f}, final loss {last:.3f}")
    return found


if __name__ == "__main__":
    main()
