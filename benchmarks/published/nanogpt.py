"""Trains nanoGPT's CPU configuration on Shakespeare in Flax NNX.

python benchmarks/published/nanogpt.py --text FILE [--peaks 1e-3 ...] [--seeds 1]

FILE is the text of nanoGPT's character-level run, such as `input.txt` of karpathy's
char-rnn. nanoGPT (https://github.com/karpathy/nanoGPT) trains a GPT-2 of 4 layers, 4
heads and width 128 for 2,000 steps with 12 windows of 64 characters, without dropout.
Its README reports a validation loss of 1.88, the mean over 20 random minibatches of
the last 10% of the text. The script computes it on all windows of this part, and prints
the standard error of a mean over 20 minibatches.

The model, the initial weights and the optimizer are nanoGPT's: AdamW with decay 0.1 of
matrices and embeddings, a cosine schedule with linear warmup to the peak rate and decay
to a tenth of it, and clipping. The schedule and the clipping come from stabjax, with a
guard and metrics. nanoGPT's peak rate is 1e-3; other rates run beside it.

On an H200 with four seeds (mean and standard deviation):

    peak rate         1e-3           2e-3           4e-3           8e-3
    validation loss   1.901 (0.006)  1.802 (0.008)  1.762 (0.005)  1.772 (0.012)

With nanoGPT's rate, the loss differs from the published one by 1.4 standard errors of
a mean over 240 windows (0.014). One run takes ten minutes on two busy CPU cores.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import stabjax

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
STEPS, WARMUP, PEAK, MAX_NORM = 2000, 100, 1e-3, 1.0
PUBLISHED, PUBLISHED_WINDOWS = 1.88, 20 * BATCH


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


def make_optimizer(peak, steps):
    schedule = stabjax.warmup_cosine_decay_schedule(
        0.0, peak, steps * WARMUP // STEPS, steps, peak / 10
    )
    adamw = optax.adamw(
        schedule,
        b2=0.99,
        weight_decay=0.1,
        mask=lambda params: jax.tree.map(lambda w: w.ndim > 1, params),
    )
    clip = stabjax.with_metrics(stabjax.clip_by_global_norm(MAX_NORM), name="clip")
    return stabjax.skip_if_nonfinite(optax.chain(clip, adamw))


def shakespeare(text):
    """The problem: random windows of the first 90%, and validation on the rest."""
    characters, codes = np.unique(list(text), return_inverse=True)
    border = int(0.9 * len(codes))
    train, held_out = np.split(codes.astype(np.int32), [border])
    make = functools.partial(GPT, len(characters))
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def losses_of(params, codes, starts):
        windows = jnp.asarray(codes)[starts[:, None] + jnp.arange(CONTEXT + 1)]
        logits = nnx.merge(graph, params)(windows[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])
        return losses.mean(axis=1)

    def loss(params, key):
        starts = jax.random.randint(key, (BATCH,), 0, len(train) - CONTEXT)
        return losses_of(params, train, starts).mean()

    def evaluate(params, key):
        starts = jnp.arange(0, len(held_out) - CONTEXT, CONTEXT)
        losses = jax.lax.map(
            lambda start: losses_of(params, held_out, start[None])[0],
            starts,
            batch_size=128,
        )
        error = losses.std() / PUBLISHED_WINDOWS**0.5
        return {"validation_loss": losses.mean(), "published_error": error}

    return stabjax.problems.Problem(
        lambda key: nnx.state(make(nnx.Rngs(key)), nnx.Param),
        loss,
        evaluate,
        {"name": "nanoGPT on Shakespeare", "final_loss": "validation_loss"},
    )


def trained(text, peaks=(PEAK,), seeds=1, steps=STEPS):
    return stabjax.sweep(
        shakespeare(text),
        functools.partial(make_optimizer, steps=steps),
        stabjax.grid(peak=peaks, seed=range(seeds)),
        steps=steps,
        record_every=max(steps // 8, 1),
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--peaks", type=float, nargs="+", default=[PEAK])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    text = options.text.read_text(encoding="utf-8")
    runs = trained(text, options.peaks, options.seeds, options.steps)
    print("step  loss  gradient norm  clipped (peak rate, first seed)")
    first = runs.isel(peak=0, seed=0)
    for step in runs.step.values:
        at = first.sel(step=step)
        row = at.loss, at.clip_grad_norm, at.clip_clip_fraction
        print(f"{step:4} " + " ".join(f"{float(x):6.3f}" for x in row))
    print(f"skipped steps: {int(runs.skip_if_nonfinite_skip_count.max())}")
    error = float(runs.published_error.sel(peak=options.peaks[0]).mean())
    print("validation loss (and its standard deviation)")
    print(f"nanoGPT, peak 0.001  {PUBLISHED:.2f} ({error:.3f} of its windows)")
    for peak in options.peaks:
        losses = runs.validation_loss.sel(peak=peak).values
        spread = losses.std(ddof=1) if len(losses) > 1 else np.nan
        print(
            f"stabjax, peak {peak:g}  {losses.mean():.4f} ({spread:.4f} of the seeds)"
        )
    return runs


if __name__ == "__main__":
    main()
