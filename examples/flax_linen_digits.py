"""Digits with Flax Linen: clipping that is logged, warm-up and cosine decay.

Run it with `python examples/flax_linen_digits.py`; it takes a few seconds on a CPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import stabjax

EPOCHS, BATCH_SIZE = 20, 64


class MLP(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(self.hidden)(x)))


@jax.jit
def train_step(state, images, labels):
    def loss_fn(params):
        logits = state.apply_fn({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


@jax.jit
def accuracy(state, images, labels):
    logits = state.apply_fn({"params": state.params}, images)
    return jnp.mean(logits.argmax(axis=-1) == labels)


def main() -> float:
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        np.float32(images / 16), np.int32(labels), random_state=0, stratify=labels
    )
    steps = EPOCHS * (len(x) // BATCH_SIZE)
    schedule = stabjax.warmup_cosine_decay_schedule(
        0.0, 1e-2, warmup_steps=steps // 20, decay_steps=steps
    )
    model = MLP(64)
    tx = optax.chain(
        stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), name="clip"),
        optax.adamw(schedule),
    )
    params = model.init(jax.random.key(0), x[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    order = np.random.default_rng(0)
    for epoch in range(EPOCHS):
        batches = order.permutation(len(x))[: steps // EPOCHS * BATCH_SIZE]
        for batch in batches.reshape(-1, BATCH_SIZE):
            state, loss = train_step(state, x[batch], y[batch])
        if (epoch + 1) % 5 == 0:
            seen = jax.device_get(stabjax.metrics(state.opt_state))
            log = " ".join(f"{name} {value:.3f}" for name, value in seen.items())
            print(f"epoch {epoch + 1:2d} loss {loss:.4f} {log}")

    result = float(accuracy(state, x_test, y_test))
    print(f"test accuracy {result:.3f}")
    return result


if __name__ == "__main__":
    main()
