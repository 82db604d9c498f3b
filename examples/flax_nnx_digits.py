"""Trains a Flax NNX network on digits with clipping, a schedule, a guard and logging.

One minibatch is corrupt. The guard skips this step, and `unless_skipped` keeps NaN out
of the batch statistics.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import stabjax

STEPS, BATCH = 600, 64


class Network(nnx.Module):
    """Network with two dense layers and batch normalization."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, momentum=0.9, rngs=rngs)
        self.output = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x, train):
        x = self.norm(self.hidden(x), use_running_average=not train)
        return self.output(nnx.relu(x))


def loss_of(model, images, labels):
    logits = model(images, train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@nnx.jit
def train_step(model, optimizer, images, labels):
    before = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    loss, grads = nnx.value_and_grad(loss_of)(model, images, labels)
    optimizer.update(model, grads)
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    nnx.update(model, stabjax.unless_skipped(optimizer.opt_state, after, before))
    return loss


def main():
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(
        images.astype(np.float32) / 16, labels, test_size=0.2, random_state=0
    )
    train_x, test_x, train_y, test_y = map(jnp.asarray, split)

    schedule = stabjax.warmup_cosine_decay_schedule(
        0.0, 3e-3, warmup_steps=50, decay_steps=STEPS
    )
    clip = stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), name="clip")
    model = Network(nnx.Rngs(0))
    tx = optax.chain(clip, stabjax.with_learning_rate(optax.adamw, schedule))
    tx = stabjax.skip_if_nonfinite(tx)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    order = np.random.default_rng(0)
    for step in range(STEPS):
        batch = order.integers(len(train_x), size=BATCH)
        images = train_x[batch]
        if step == STEPS // 2:
            images = images.at[0, 0].set(jnp.nan)
        loss = train_step(model, optimizer, images, train_y[batch])
        if step % 100 == 0:
            recorded = stabjax.metrics(optimizer.opt_state)
            logged = {name: round(float(value), 3) for name, value in recorded.items()}
            print(f"step {step}: loss {float(loss):.3f} {logged}")

    stabjax.check_guards(optimizer.opt_state)
    logits = model(test_x, train=False)
    accuracy = float(jnp.mean(jnp.argmax(logits, axis=-1) == test_y))
    print(f"test accuracy {accuracy:.1%} on {jax.default_backend()}")
    return accuracy


if __name__ == "__main__":
    main()
