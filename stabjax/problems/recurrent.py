"""Recurrent networks: one unit and its wall, and sequences to be remembered."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import ArrayLike

from stabjax._train.problem import Problem
from stabjax.problems.arguments import number, size
from stabjax.problems.networks import Measure, correct, init_and_apply, scaled_normal
from stabjax.problems.noise import like, with_gradient_noise

_EXAMPLES = 1000  # sequences that `evaluate` draws


def single_unit_rnn(
    noise: ArrayLike = 0.0, init_spread: ArrayLike = 0.5, *, length: int = 50
) -> Problem:
    r"""A recurrent network of one unit, whose loss has a wall.

    .. math:: x_{t+1} = w\, \sigma(x_t) + b, \quad x_0 = 0.5, \qquad
        L(w, b) = (\sigma(x_T) - 0.7)^2

    with the logistic :math:`\sigma`, from :math:`(5.5, -2.3) + r\, U(-1, 1)^2`. Left of
    the wall the state falls to a low fixed point, right of it it climbs to a high one;
    at it, around :math:`(4.6, -2.4)`, the slope is 229 where it is 0.01 on the plain.
    Descent from the right walks to the wall's foot, where the loss is 0, and one step
    into the wall throws it far out of the picture.

    Args:
      noise: standard deviation of the Gaussian noise added to each entry of the
        gradient (not to the loss), at least 0; may be traced.
      init_spread: :math:`r \ge 0`, the reach of the random start; may be traced.
      length: number :math:`T` of steps in time; static.

    Returns:
      A :class:`stabjax.problems.Problem`; its params are an array of shape ``(2,)``:
      :math:`w` and :math:`b`.

    Raises:
      TypeError: if an argument is not a single number, or ``length`` not an int.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> slope = jax.grad(stabjax.problems.single_unit_rnn().loss)
      >>> at = jnp.array([[3.0, -3.0], [4.625, -2.38]])
      >>> norms = [jnp.linalg.norm(slope(w, jax.random.key(0))) for w in at]
      >>> bool(norms[1] > 1000 * norms[0])
      True

    Source: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural
    networks, 2013, the network of their figure of the error surface; target and start
    are our own.
    """
    init_spread = number("init_spread", init_spread, at_least=0)
    length = size("length", length)

    def init(key: jax.Array) -> jax.Array:
        offset = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return jnp.array([5.5, -2.3]) + init_spread * offset

    def loss(w: jax.Array) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return w[0] * jax.nn.sigmoid(x) + w[1], None

        x, _ = jax.lax.scan(step, like(w, 0.5), length=length)
        return jnp.square(jax.nn.sigmoid(x) - 0.7)

    # One of a whole line of minima, and that of every length: the logistic of b is 0.7.
    minimizer = jnp.array([0.0, math.log(0.7 / 0.3)])
    metadata = {
        "name": "single_unit_rnn",
        "optimum": 0.0,
        "minimizer": minimizer,
        "steps": 500,
        "target_loss": 1e-4,
        "optimizer": optax.sgd,
        "peak_value": (0.01, 100.0),
        "max_norm": (0.001, 1000.0),
    }
    return Problem(init, with_gradient_noise(loss, noise), metadata=metadata)


def adding(
    recurrent_scale: ArrayLike = 1.5,
    *,
    length: int = 50,
    hidden: int = 32,
    batch_size: int = 32,
) -> Problem:
    r"""A recurrent network that adds the two marked numbers of a sequence.

    .. math:: h_t = \tanh(U x_t + V h_{t-1} + b), \qquad f(x) = W h_T + c, \qquad
        L = \mathbb{E}\,(f(x) - y)^2

    Each :math:`x_t` is a number from :math:`U(0, 1)` and a mark, which is 1 at two
    random places, one in each half, and 0 elsewhere; :math:`y` is the sum of the two
    marked numbers. Sequences are drawn afresh for each step. Always answering 1 has the
    loss 1/6. Biases start at 0 and matrices at :math:`N(0, 1/n)` for :math:`n` inputs,
    :math:`V` times :math:`\rho`, about its largest absolute eigenvalue: below 1
    gradients vanish over time, above it they explode.

    Args:
      recurrent_scale: :math:`\rho > 0`; may be traced.
      length: number :math:`T` of steps in time, at least 2; static.
      hidden: number of units; static.
      batch_size: sequences in each step; static.

    Returns:
      A :class:`stabjax.problems.Problem` whose ``evaluate`` returns ``test_loss`` over
      1,000 other sequences.

    Raises:
      TypeError: if an argument is of another type.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

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

    Source: Hochreiter and Schmidhuber, Long short-term memory, 1997; Pascanu, Mikolov
    and Bengio, On the difficulty of training recurrent neural networks, 2013.
    """
    length = size("length", length, least=2)

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
        "optimizer": optax.sgd,
        "peak_value": (0.001, 10.0),
        "max_norm": (0.01, 100.0),
    }
    module = functools.partial(_RNN, 2, size("hidden", hidden), 1)
    metrics = {"loss": squared_error}
    return _sequences(module, recurrent_scale, draw, metrics, batch_size, metadata)


def temporal_order(
    recurrent_scale: ArrayLike = 1.0,
    *,
    length: int = 20,
    hidden: int = 50,
    batch_size: int = 32,
) -> Problem:
    r"""A recurrent network that says which two of A and B came, and in what order.

    A sequence of :math:`T` symbols, each a unit vector of six: A or B at a random place
    within its second tenth and again within its fifth, one of four distractors
    everywhere else. After the last, the network of :func:`adding` says which of the
    four orders it was: AA, AB, BA or BB. The loss is the cross-entropy of its softmax,
    :math:`\log 4` for a guess.

    Args:
      recurrent_scale: :math:`\rho > 0`, as of :func:`adding`; may be traced.
      length: number :math:`T` of steps in time, at least 10; static.
      hidden: number of units; static.
      batch_size: sequences in each step; static.

    Returns:
      A :class:`stabjax.problems.Problem` whose ``evaluate`` returns ``test_loss`` and
      ``test_accuracy`` over 1,000 other sequences.

    Raises:
      TypeError: if an argument is of another type.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax
      >>> import stabjax
      >>> problem = stabjax.problems.temporal_order(length=10)
      >>> round(problem.metadata["baseline"], 3)
      1.386

    Source: Hochreiter and Schmidhuber, Long short-term memory, 1997; Pascanu, Mikolov
    and Bengio, On the difficulty of training recurrent neural networks, 2013.
    """
    length = size("length", length, least=10)

    def draw(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        key_symbols, key_places = jax.random.split(key)
        symbols = jax.random.randint(key_symbols, (count, length), 2, 6)
        # Two numbers for each of the two relevant symbols: where and which.
        uniform = jax.random.uniform(key_places, (2, count, 2))
        tenths = jnp.array([[1.0, 4.0]]) + uniform[0]
        places = jnp.floor(tenths * (length / 10)).astype(jnp.int32)
        which = (uniform[1] < 0.5).astype(jnp.int32)
        at = jax.nn.one_hot(places, length, dtype=jnp.int32)
        shown = jnp.einsum("nk,nkt->nt", which, at)
        symbols = jnp.where(at.sum(axis=1) > 0, shown, symbols)
        return jax.nn.one_hot(symbols, 6), 2 * which[:, 0] + which[:, 1]

    metadata = {
        "name": "temporal_order",
        "baseline": math.log(4),
        "steps": 2000,
        "target_loss": 0.1,
        "optimizer": optax.sgd,
        "peak_value": (0.001, 10.0),
        "max_norm": (0.01, 100.0),
    }
    module = functools.partial(_RNN, 6, size("hidden", hidden), 4)
    metrics = {
        "loss": optax.softmax_cross_entropy_with_integer_labels,
        "accuracy": correct,
    }
    return _sequences(module, recurrent_scale, draw, metrics, batch_size, metadata)


def _sequences(
    module: Callable[[nnx.Rngs], nnx.Module],
    recurrent_scale: ArrayLike,
    draw: Callable[[jax.Array, int], tuple[jax.Array, jax.Array]],
    metrics: Mapping[str, Measure],
    batch_size: int,
    metadata: dict[str, Any],
) -> Problem:
    """A recurrent network on sequences drawn afresh, with ``metrics["loss"]``."""
    scale = number("recurrent_scale", recurrent_scale, above=0)
    batch_size = size("batch_size", batch_size)
    init, apply = init_and_apply(module, None)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        inputs, targets = draw(key, batch_size)
        return jnp.mean(metrics["loss"](apply(params, inputs), targets))

    def evaluate(params: Any, key: jax.Array) -> dict[str, jax.Array]:
        inputs, targets = draw(key, _EXAMPLES)
        outputs = apply(params, inputs)
        return {
            f"test_{name}": jnp.mean(measure(outputs, targets))
            for name, measure in metrics.items()
        }

    def scale_of(path: str) -> ArrayLike:
        return scale if "recurrent" in path else 1.0

    return Problem(scaled_normal(init, scale_of), loss, evaluate, metadata)


class _RNN(nnx.Module):
    """A recurrent layer with tanh, read out after the last step in time."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rngs: nnx.Rngs) -> None:
        """Makes the three linear maps."""
        self.input = nnx.Linear(inputs, hidden, rngs=rngs)
        self.recurrent = nnx.Linear(hidden, hidden, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(hidden, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """From (batch, time, inputs) to (batch, outputs)."""
        driven = jnp.swapaxes(self.input(x), 0, 1)

        def step(state: jax.Array, drive: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(drive + self.recurrent(state)), None

        state, _ = jax.lax.scan(step, jnp.zeros_like(driven[0]), driven)
        return self.output(state)
