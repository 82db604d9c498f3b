"""Digits with Flax NNX: clipping that is logged, warm-up and cosine decay.

Run it with `python examples/flax_nnx_digits.py`; it takes a few seconds on a CPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import stabjax

EPOCHS, BATCH_SIZE = 20, 64


class MLP(nnx.Module):
    def __init__(self, hidden: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, 10, rngs=rngs)

    def __call__(self, x):
        return self.output(nnx.relu(self.hidden(x)))


def loss_fn(model, images, labels):
    logits = model(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@nnx.jit
def train_step(model, optimizer, images, labels):
    loss, grads = nnx.value_and_grad(loss_fn)(model, images, labels)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def accuracy(model, images, labels):
    return jnp.mean(model(images).argmax(axis=-1) == labels)


def main() -> float:
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        np.float32(images / 16), np.int32(labels), random_state=0, stratify=labels
    )
    steps = EPOCHS * (len(x) // BATCH_SIZE)
    schedule = stabjax.warmup_cosine_decay_schedule(
        0.0, 1e-2, warmup_steps=steps // 20, decay_steps=steps
    )
    model = MLP(64, rngs=nnx.Rngs(0))
    tx = optax.chain(
        stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), name="clip"),
        optax.adamw(schedule),
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    order = np.random.default_rng(0)
    for epoch in range(EPOCHS):
        batches = order.permutation(len(x))[: steps // EPOCHS * BATCH_SIZE]
        for batch in batches.reshape(-1, BATCH_SIZE):
            loss = train_step(model, optimizer, x[batch], y[batch])
        if (epoch + 1) % 5 == 0:
            seen = jax.device_get(stabjax.metrics(optimizer.opt_state))
            log = " ".join(f"{name} {value:.3f}" for name, value in seen.items())
            print(f"epoch {epoch + 1:2d} loss {loss:.4f} {log}")

    result = float(accuracy(model, x_test, y_test))
    print(f"test accuracy {result:.3f}")
    return result


if __name__ == "__main__":
    main()
