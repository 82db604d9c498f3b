"""The network whose border between trainings that hold and diverge is a fractal."""

import functools
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from stabjax._train.problem import Problem
from stabjax.problems.arguments import number, size
from stabjax.problems.networks import supervised

# Of a pre-activation z, scaled so that a unit's mean square stays about 1.
_ACTIVATIONS = MappingProxyType(
    {
        "tanh": lambda z: jnp.tanh(2**0.5 * z),
        "relu": lambda z: 2**0.5 * jax.nn.relu(z),
        "identity": lambda z: z,
    }
)


def boundary_mlp(
    weight_offset: ArrayLike = 0.0, *, width: int = 16, activation: str = "tanh"
) -> Problem:
    r"""A network of one hidden layer, fitted by full gradient descent to random data.

    .. math:: f(x) = \frac1n W_1\, \phi\Big(\frac{1}{\sqrt n} W_0\, x\Big), \qquad
        L = \frac1m \sum_{k=1}^m (f(x_k) - y_k)^2, \qquad \phi(z) = \tanh(\sqrt2\, z)

    with width :math:`n`, no biases, and as many examples as weights,
    :math:`m = n (n + 1)`, of :math:`n` inputs each; inputs, targets and the weights of
    the start are all :math:`N(0, 1)`. Data are the same in every call. With a learning
    rate for each of the two layers, ``params["input"]`` and ``params["output"]``, the
    border between the trainings that converge and those that diverge is a fractal. All
    is float32, or float64 if ``jax_enable_x64`` is on, which deep zooms need.

    Args:
      weight_offset: added to the weights of the first layer at the start; may be
        traced.
      width: :math:`n`; static.
      activation: ``"tanh"``, ``"relu"`` for :math:`\sqrt2 \max(z, 0)`, or
        ``"identity"``; static.

    Returns:
      A :class:`stabjax.problems.Problem` whose ``evaluate`` returns ``train_loss``.

    Raises:
      TypeError: if an argument is of another type.
      ValueError: if an argument is outside its range; a traced one becomes NaN.

    Example:
      >>> import jax
      >>> import stabjax
      >>> params = stabjax.problems.boundary_mlp().init(jax.random.key(0))
      >>> {name: layer["kernel"].shape for name, layer in params.items()}
      {'input': (16, 16), 'output': (16, 1)}

    Source: Sohl-Dickstein, The boundary of neural network trainability is fractal,
    2024.
    """
    offset = number("weight_offset", weight_offset)
    width = size("width", width)
    if activation not in tuple(_ACTIVATIONS):
        raise ValueError(
            f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}"
        )
    rng = np.random.default_rng(0)
    dtype = jnp.result_type(float)
    inputs, targets = (
        rng.normal(size=(width * (width + 1), columns)).astype(dtype)
        for columns in (width, 1)
    )

    def module(rngs: nnx.Rngs) -> nnx.Module:
        return _BoundaryMLP(width, dtype, _ACTIVATIONS[activation], rngs)

    problem = supervised(module, inputs, targets, optax.squared_error)

    def init(key: jax.Array) -> Any:
        params = problem.init(key)
        first = params["input"]["kernel"]
        first[...] = first[...] + offset
        return params

    metadata = {
        "name": "boundary_mlp",
        "baseline": float(np.var(targets)),
        "steps": 500,
        "target_loss": 0.5,
        "optimizer": optax.sgd,
        "peak_value": (1e-3, 1e6),
        "max_norm": (1e-4, 10.0),
    }
    return Problem(init, problem.loss, problem.evaluate, metadata)


class _BoundaryMLP(nnx.Module):
    """Two matrices, whose products are divided by powers of their inputs."""

    def __init__(
        self,
        width: int,
        dtype: Any,
        activation: Callable[[jax.Array], jax.Array],
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the two layers."""
        linear = functools.partial(
            nnx.Linear,
            use_bias=False,
            kernel_init=nnx.initializers.normal(1.0),
            param_dtype=dtype,
            rngs=rngs,
        )
        self.input, self.output = linear(width, width), linear(width, 1)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """From (examples, width) to (examples, 1)."""
        width = x.shape[-1]
        # Examples last: so a batch of trials is one product of matrices with x, three
        # times as fast on CPU as the layers called one by one.
        z = jnp.einsum("io,ei->oe", self.input.kernel[...], x)
        hidden = self.activation(z / width**0.5)
        return jnp.einsum("ok,oe->ek", self.output.kernel[...], hidden) / width
