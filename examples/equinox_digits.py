"""Trains an Equinox network on digits with clipping, a schedule, a guard and metrics.

python examples/equinox_digits.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import stabjax

STEPS, BATCH = 400, 64

schedule = stabjax.warmup_cosine_decay_schedule(0.0, 3e-3, 40, STEPS)
optimizer = stabjax.skip_if_nonfinite(
    optax.chain(
        stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), name="clip"),
        stabjax.with_learning_rate(optax.adamw, schedule),
    )
)


def loss_of(model, images, labels):
    logits = jax.vmap(model)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@eqx.filter_jit
def train_step(model, opt_state, images, labels):
    loss, grads = eqx.filter_value_and_grad(loss_of)(model, images, labels)
    params = eqx.filter(model, eqx.is_inexact_array)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return eqx.apply_updates(model, updates), opt_state, loss


def main():
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(
        images.astype(np.float32) / 16, labels, test_size=0.2, random_state=0
    )
    train_x, test_x, train_y, test_y = map(jnp.asarray, split)

    model = eqx.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(0))
    # The activation function is a leaf of the model, but not a parameter.
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    order = np.random.default_rng(0)
    for step in range(STEPS):
        batch = order.integers(len(train_x), size=BATCH)
        model, opt_state, loss = train_step(
            model, opt_state, train_x[batch], train_y[batch]
        )
        if step % 100 == 0:
            recorded = stabjax.metrics(opt_state)
            logged = {name: round(float(value), 3) for name, value in recorded.items()}
            print(f"step {step}: loss {float(loss):.3f} {logged}")

    stabjax.check_guards(opt_state)
    accuracy = float(jnp.mean(jax.vmap(model)(test_x).argmax(axis=-1) == test_y))
    print(f"test accuracy {accuracy:.1%} on {jax.default_backend()}")
    return accuracy


if __name__ == "__main__":
    main()
