"""A user's annotated script: mypy checks it, nobody runs it."""

import jax
import jax.numpy as jnp
import optax

import stabjax
from stabjax.problems import Problem


def make_schedule(peak_value: float, steps: int) -> optax.Schedule:
    return stabjax.warmup_cosine_decay_schedule(0.0, peak_value, 10, steps)


def make_optimizer(max_norm: float, peak_value: float) -> optax.GradientTransformation:
    return optax.chain(
        stabjax.with_metrics(stabjax.clip_by_global_norm(max_norm), name="clip"),
        optax.sgd(make_schedule(peak_value, 100)),
    )


def loss(params: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.sum(params**2)


problem = Problem(lambda key: jnp.ones(2), loss)
result: stabjax.TrainResult = stabjax.train(
    problem, make_optimizer(1.0, 0.1), jax.random.key(0), steps=100
)
final: float = float(result.final_loss)
logged: dict[str, jax.Array] = stabjax.metrics(
    make_optimizer(1.0, 0.1).init(jnp.ones(2))
)
space: stabjax.Space = stabjax.grid(max_norm=[0.1, 1.0], peak_value=[0.1, 0.2])
runs = stabjax.sweep(problem, make_optimizer, space, steps=100)
best: stabjax.runs.Best = stabjax.runs.best(runs)
chosen = make_optimizer(**best.arguments)
rate = stabjax.with_cooldown(stabjax.constant_schedule(1.0), 10, 5, shape="1-sqrt")
value: float = float(rate(3))
