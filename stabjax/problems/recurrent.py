"""Recurrent networks trained on synthetic memory tasks."""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from stabjax._arguments import as_integer, as_scalar
from stabjax._train.problem import Problem
from stabjax._types import Number
from stabjax.problems.flax_modules import from_nnx
from stabjax.problems.networks import (
    Measure,
    Pair,
    correct,
    network_problem,
    scaled_normal,
)

_HELD_OUT = 1000  # number of sequences drawn by `evaluate`


def adding(
    recurrent_scale: Number = 1.5,
    *,
    length: int = 50,
    hidden: int = 32,
    batch_size: int = 32,
) -> Problem:
    """The adding problem: a recurrent network adds two marked numbers of a sequence.

        h_t = tanh(U x_t + V h_(t-1) + b),  f(x) = W h_T + c
        L = mean of (f(x) - y)^2 over the minibatch

    Each `x_t` consists of a number from `U(0, 1)` and a mark. The mark is 1 at one
    random position in each half of the sequence and 0 elsewhere. The target `y` is the
    sum of the two marked numbers. Every step uses newly generated sequences. The
    constant prediction 1 has a loss of 1/6. Initial biases are zero, and the weights of
    a matrix with `n` inputs are drawn from `N(0, 1 / n)`. `V` is then multiplied by
    `rho`, so its largest absolute eigenvalue is about `rho`. Gradients vanish over time
    if `rho < 1` and explode if `rho > 1`.

    Args:
      recurrent_scale: scale `rho` of the recurrent weights, > 0. **Traceable.**
      length: number of time steps `T`, >= 2. **Static.**
      hidden: number of hidden units, >= 1. **Static.**
      batch_size: number of sequences per step, >= 1. **Static.**

    Returns:
      A `Problem` whose `evaluate` returns `test_loss`, computed on 1,000 additional
      sequences.

    Raises:
      TypeError: If an argument is not a scalar or a size is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax
      >>> import stabjax
      >>> problem = stabjax.problems.adding(0.9, length=10)
      >>> params = jax.jit(problem.init)(jax.random.key(0))
      >>> loss, slopes = jax.jit(jax.value_and_grad(problem.loss))(
      ...     params, jax.random.key(1)
      ... )
      >>> slopes["recurrent"]["kernel"].shape
      (32, 32)

    References:
      Hochreiter and Schmidhuber, *Long short-term memory*, 1997,
      https://doi.org/10.1162/neco.1997.9.8.1735

      Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural
      networks*, 2013, https://arxiv.org/abs/1211.5063
    """
    length = as_integer("length", length, ">= 2")

    def draw(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        key_values, key_places = jax.random.split(key)
        values = jax.random.uniform(key_values, (count, length))
        places = jax.random.uniform(key_places, (count, 2))
        half = length // 2
        lengths = jnp.array([half, length - half], jnp.float32)
        at = jnp.floor(places * lengths[None]) + jnp.array([[0.0, half]])
        marks = jax.nn.one_hot(at.astype(jnp.int32), length).sum(axis=1)
        return jnp.stack([values, marks], axis=-1), jnp.sum(values * marks, axis=-1)

    def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.square(outputs[:, 0] - targets)

    metadata = {
        "name": "adding",
        "baseline": 1 / 6,
        "steps": 1000,
        "target_loss": 0.16,
    }
    module = functools.partial(_RNN, 2, as_integer("hidden", hidden), 1)
    measures = {"loss": squared_error}
    return _sequences(module, recurrent_scale, draw, measures, batch_size, metadata)


def temporal_order(
    recurrent_scale: Number = 1.0,
    *,
    length: int = 20,
    hidden: int = 50,
    batch_size: int = 32,
) -> Problem:
    """The temporal order problem: a recurrent network classifies the order of symbols.

    A sequence consists of `T` one-hot vectors, which encode six symbols. Two positions
    contain A or B: a random position in the second tenth of the sequence and one in the
    fifth tenth. All other positions contain one of four distractors. After the last
    symbol, the network must classify the order as AA, AB, BA or BB. The architecture is
    the same as in `adding`. The loss is the softmax cross-entropy, which is `log(4)`
    for random guessing.

    Args:
      recurrent_scale: scale `rho` of the recurrent weights, as in `adding`, > 0.
        **Traceable.**
      length: number of time steps `T`, >= 10. **Static.**
      hidden: number of hidden units, >= 1. **Static.**
      batch_size: number of sequences per step, >= 1. **Static.**

    Returns:
      A `Problem` whose `evaluate` returns `test_loss` and `test_accuracy`, computed on
      1,000 additional sequences.

    Raises:
      TypeError: If an argument is not a scalar or a size is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax
      >>> import stabjax
      >>> problem = stabjax.problems.temporal_order(length=10)
      >>> round(problem.metadata["baseline"], 3)
      1.386

    References:
      Hochreiter and Schmidhuber, *Long short-term memory*, 1997,
      https://doi.org/10.1162/neco.1997.9.8.1735

      Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural
      networks*, 2013, https://arxiv.org/abs/1211.5063
    """
    length = as_integer("length", length, ">= 10")

    def draw(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        key_symbols, key_places = jax.random.split(key)
        symbols = jax.random.randint(key_symbols, (count, length), 2, 6)
        # Two random numbers for each relevant symbol: its position and its type.
        uniform = jax.random.uniform(key_places, (2, count, 2))
        tenths = jnp.array([[1.0, 4.0]]) + uniform[0]
        places = jnp.floor(tenths * (length / 10)).astype(jnp.int32)
        kind = (uniform[1] < 0.5).astype(jnp.int32)
        at = jax.nn.one_hot(places, length, dtype=jnp.int32)
        shown = jnp.einsum("nk,nkt->nt", kind, at)
        symbols = jnp.where(at.sum(axis=1) > 0, shown, symbols)
        return jax.nn.one_hot(symbols, 6), 2 * kind[:, 0] + kind[:, 1]

    metadata = {
        "name": "temporal_order",
        "baseline": math.log(4),
        "steps": 2000,
        "target_loss": 0.1,
    }
    module = functools.partial(_RNN, 6, as_integer("hidden", hidden), 4)
    measures = {
        "loss": optax.softmax_cross_entropy_with_integer_labels,
        "accuracy": correct,
    }
    return _sequences(module, recurrent_scale, draw, measures, batch_size, metadata)


def _sequences(
    module: Callable[[nnx.Rngs], nnx.Module],
    recurrent_scale: Number,
    draw: Callable[[jax.Array, int], tuple[jax.Array, jax.Array]],
    measures: Mapping[str, Measure],
    batch_size: int,
    metadata: Mapping[str, object],
) -> Problem:
    """Returns a problem that trains a recurrent network on generated sequences."""
    recurrent_scale = as_scalar("recurrent_scale", recurrent_scale, "> 0")
    batch_size = as_integer("batch_size", batch_size)
    init, apply = from_nnx(module)

    def scale_of(path: str) -> Number:
        return recurrent_scale if "recurrent" in path else 1.0

    def draw_held_out(key: jax.Array) -> Mapping[str, Pair]:
        return {"test": draw(key, _HELD_OUT)}

    return network_problem(
        scaled_normal(init, scale_of),
        apply,
        measures,
        lambda key: draw(key, batch_size),
        draw_held_out,
        {
            "optimizer": optax.sgd,
            "peak_value": (0.001, 10.0),
            "max_norm": (0.01, 100.0),
            **metadata,
        },
    )


class _RNN(nnx.Module):
    """Recurrent tanh layer with a linear readout of the final state."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rngs: nnx.Rngs) -> None:
        """Initializes the three linear layers."""
        self.input = nnx.Linear(inputs, hidden, rngs=rngs)
        self.recurrent = nnx.Linear(hidden, hidden, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(hidden, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, time, inputs) to (batch, outputs)."""
        # Computes the products with all inputs at once, with time first for `scan`.
        drives = jnp.swapaxes(self.input(x), 0, 1)

        def step(state: jax.Array, drive: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(drive + self.recurrent(state)), None

        state, _ = jax.lax.scan(step, jnp.zeros_like(drives[0]), drives)
        return self.output(state)
