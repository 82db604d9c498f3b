"""Trains nanoGPT's CPU configuration on Shakespeare in Flax NNX.

python benchmarks/published/nanogpt.py --text FILE [--seeds 1] [--steps 2000]

FILE is the text of nanoGPT's character-level run, such as `input.txt` of karpathy's
char-rnn. nanoGPT (https://github.com/karpathy/nanoGPT) trains a GPT-2 of 4 layers, 4
heads and width 128 for 2,000 steps with 12 windows of 64 characters, without dropout.
Its README reports a validation loss of 1.88, the mean over 20 random minibatches of
the last 10% of the text. The script computes it on every window of this part.

The model, the initial weights and the optimizer are nanoGPT's: AdamW with decay 0.1 of
matrices and embeddings, a cosine schedule with linear warmup, and clipping. These come
from stabjax, with a guard and metrics.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import stabjax

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
STEPS, WARMUP, PEAK, FLOOR, MAX_NORM = 2000, 100, 1e-3, 1e-4, 1.0
PUBLISHED = 1.88
LOGGED = 250  # steps between two lines of the log
SHOWN = ["loss", "clip/grad_norm", "clip/clip_fraction", "skip_if_nonfinite/skip_count"]


def normal(std):
    return nnx.initializers.normal(std)


def layer_norm(rngs):
    return nnx.LayerNorm(WIDTH, epsilon=1e-5, use_bias=False, rngs=rngs)


class Block(nnx.Module):
    """GPT-2 block without biases."""

    def __init__(self, rngs):
        def linear(inputs, outputs, std=0.02):
            return nnx.Linear(
                inputs, outputs, use_bias=False, kernel_init=normal(std), rngs=rngs
            )

        residual = 0.02 / (2 * LAYERS) ** 0.5
        self.norms = nnx.List([layer_norm(rngs), layer_norm(rngs)])
        self.heads = linear(WIDTH, 3 * WIDTH)
        self.mixed = linear(WIDTH, WIDTH, residual)
        self.hidden = linear(WIDTH, 4 * WIDTH)
        self.output = linear(4 * WIDTH, WIDTH, residual)

    def __call__(self, h):
        heads = self.heads(self.norms[0](h)).reshape(*h.shape[:2], 3, HEADS, -1)
        query, key, value = jnp.moveaxis(heads, 2, 0)
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        h = h + self.mixed(attended.reshape(h.shape))
        hidden = nnx.gelu(self.hidden(self.norms[1](h)), approximate=False)
        return h + self.output(hidden)


class GPT(nnx.Module):
    """GPT-2 whose output layer is its embedding."""

    def __init__(self, characters, rngs):
        def embedding(rows):
            return nnx.Embed(rows, WIDTH, embedding_init=normal(0.02), rngs=rngs)

        self.character = embedding(characters)
        self.place = embedding(CONTEXT)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm = layer_norm(rngs)

    def __call__(self, codes):
        h = self.character(codes) + self.place(jnp.arange(codes.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.character.attend(self.norm(h))


def make_optimizer(steps):
    schedule = stabjax.warmup_cosine_decay_schedule(
        0.0, PEAK, min(WARMUP, steps // 2), steps, FLOOR
    )
    adamw = optax.adamw(
        schedule,
        b2=0.99,
        weight_decay=0.1,
        mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params),
    )
    clip = stabjax.with_metrics(stabjax.clip_by_global_norm(MAX_NORM), name="clip")
    return stabjax.skip_if_nonfinite(optax.chain(clip, adamw))


def split(text):
    """The codes of the first 90% of the text and of the rest, and the characters."""
    characters, codes = np.unique(list(text), return_inverse=True)
    border = int(0.9 * len(codes))
    return codes[:border].astype(np.int32), codes[border:].astype(np.int32), characters


def windows_of(codes, starts):
    windows = codes[starts[:, None] + jnp.arange(CONTEXT + 1)]
    return windows[:, :-1], windows[:, 1:]


def trained(text, seed=0, steps=STEPS, say=print):
    """Trains a model and returns its validation loss and its metrics."""
    train, held_out, characters = split(text)
    train = jnp.asarray(train)
    graph, params = nnx.split(GPT(len(characters), nnx.Rngs(seed)), nnx.Param)
    tx = make_optimizer(steps)

    def loss_of(params, inputs, targets):
        logits = nnx.merge(graph, params)(inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def step(state, number):
        params, opt_state = state
        key = jax.random.fold_in(jax.random.key(seed), number)
        starts = jax.random.randint(key, (BATCH,), 0, len(train) - CONTEXT)
        loss, grads = jax.value_and_grad(loss_of)(params, *windows_of(train, starts))
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    some_steps = jax.jit(lambda state, numbers: jax.lax.scan(step, state, numbers))
    state = (params, tx.init(params))
    for first in range(0, steps, LOGGED):
        numbers = jnp.arange(first, min(first + LOGGED, steps))
        state, losses = some_steps(state, numbers)
        logged = {"loss": losses[-50:].mean(), **stabjax.metrics(state[1])}
        shown = {name: round(float(logged[name]), 3) for name in SHOWN}
        say(f"step {int(numbers[-1]) + 1}: {shown}")
    stabjax.check_guards(state[1])
    return validation_loss(loss_of, state[0], held_out), logged


def validation_loss(loss_of, params, codes, windows=256):
    """The mean loss of consecutive windows that cover the codes."""
    starts = np.arange(0, len(codes) - CONTEXT, CONTEXT)
    loss_of, codes, total = jax.jit(loss_of), jnp.asarray(codes), 0.0
    for part in np.split(starts, range(windows, len(starts), windows)):
        total += len(part) * float(loss_of(params, *windows_of(codes, part)))
    return total / len(starts)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    text, found = options.text.read_text(encoding="utf-8"), []
    for seed in range(options.seeds):
        start = time.perf_counter()
        loss, _ = trained(text, seed, options.steps)
        print(f"seed {seed}: {loss:.4f} in {time.perf_counter() - start:.0f} s")
        found.append(loss)
    print(f"{'validation loss':16s} {'nanoGPT':>8s} {'stabjax':>8s}")
    print(f"{'':16s} {PUBLISHED:8.2f} {np.mean(found):8.4f}")
    return found


if __name__ == "__main__":
    main()
