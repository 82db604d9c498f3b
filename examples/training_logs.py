"""Logs the metrics of a training loop to TensorBoard or Weights & Biases.

python examples/training_logs.py # then: tensorboard --logdir logs
python examples/training_logs.py --to wandb     # offline, then: wandb sync
"""

import argparse
import os

import jax
import jax.numpy as jnp
import optax

import stabjax

STEPS, LOG_EVERY = 100, 10


def tensorboard(folder):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise SystemExit("TensorBoard logs require: pip install tensorboardX") from None
    writer = SummaryWriter(folder)

    def log(values, step):
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def wandb(folder):
    os.environ.setdefault("WANDB_MODE", "offline")
    try:
        import wandb
    except ImportError:
        raise SystemExit("Weights & Biases logs require: pip install wandb") from None
    os.makedirs(folder, exist_ok=True)
    run = wandb.init(project="stabjax", dir=folder)
    return lambda values, step: run.log(values, step=step), run.finish


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    trackers = {"tensorboard": tensorboard, "wandb": wandb}
    parser.add_argument("--to", choices=[*trackers], default="tensorboard")
    parser.add_argument("--folder", default="logs")
    options = parser.parse_args(arguments)
    log, close = trackers[options.to](options.folder)

    schedule = stabjax.warmup_cosine_decay_schedule(0.0, 0.3, 10, STEPS)
    optimizer = optax.chain(
        stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), name="clip"),
        stabjax.with_learning_rate(optax.sgd, schedule),
    )
    params = {"w": jnp.arange(4.0), "b": jnp.array(5.0)}
    opt_state = optimizer.init(params)

    @jax.jit
    def train_step(params, opt_state):
        loss, grads = jax.value_and_grad(optax.tree.norm)(params, squared=True)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for step in range(STEPS):
        params, opt_state, loss = train_step(params, opt_state)
        if step % LOG_EVERY == 0:  # other steps transfer nothing to the host
            values = {"loss": loss, **stabjax.metrics(opt_state)}
            log({name: float(value) for name, value in values.items()}, step)
    close()


if __name__ == "__main__":
    main()
