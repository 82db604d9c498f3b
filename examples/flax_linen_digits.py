"""Trains a Flax Linen network on digits with a scheduled clipping threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import stabjax

STEPS, BATCH = 600, 64


class Network(nn.Module):
    """Network with two dense layers that maps 64 pixels to 10 logits."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(128)(x)))


@jax.jit
def train_step(state, images, labels):
    def loss_of(params):
        logits = state.apply_fn(params, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    loss, grads = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=grads), loss


def main():
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(
        images.astype(np.float32) / 16, labels, test_size=0.2, random_state=0
    )
    train_x, test_x, train_y, test_y = map(jnp.asarray, split)

    rate = stabjax.warmup_cosine_decay_schedule(
        0.0, 3e-3, warmup_steps=50, decay_steps=STEPS
    )
    # The threshold increases during training, because gradients are largest early on.
    # Its current value appears in the logs.
    max_norm = stabjax.linear_schedule(0.5, 2.0, transition_steps=STEPS)
    clip = stabjax.clip_by_global_norm(max_norm)
    network = Network()
    state = TrainState.create(
        apply_fn=network.apply,
        params=network.init(jax.random.key(0), train_x[:1]),
        tx=optax.chain(
            stabjax.with_metrics(clip, name="clip"),
            stabjax.with_learning_rate(optax.adamw, rate),
        ),
    )

    order = np.random.default_rng(0)
    for step in range(STEPS):
        batch = order.integers(len(train_x), size=BATCH)
        state, loss = train_step(state, train_x[batch], train_y[batch])
        if step % 100 == 0:
            seen = stabjax.metrics(state.opt_state)
            logged = {name: round(float(value), 4) for name, value in seen.items()}
            print(f"step {step}: loss {float(loss):.3f} {logged}")

    logits = state.apply_fn(state.params, test_x)
    accuracy = float(jnp.mean(jnp.argmax(logits, axis=-1) == test_y))
    print(f"test accuracy {accuracy:.1%} on {jax.default_backend()}")
    return accuracy


if __name__ == "__main__":
    main()
