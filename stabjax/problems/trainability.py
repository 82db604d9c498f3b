"""A network with a fractal boundary between convergence and divergence."""

import functools
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from stabjax._arguments import as_integer, as_scalar, check_choice
from stabjax._train.problem import Problem
from stabjax._types import Number
from stabjax.problems.networks import supervised

# Activations, scaled to keep the mean square of a unit close to 1.
_ACTIVATIONS = MappingProxyType(
    {
        "tanh": lambda z: jnp.tanh(2**0.5 * z),
        "relu": lambda z: 2**0.5 * jax.nn.relu(z),
        "identity": lambda z: z,
    }
)


def boundary_mlp(
    weight_offset: Number = 0.0,
    *,
    width: int = 16,
    activation: Literal["tanh", "relu", "identity"] = "tanh",
) -> Problem:
    """Network with one hidden layer, trained on random data with full batches.

        f(x) = 1/n W_1 phi(W_0 x / sqrt(n)),  phi(z) = tanh(sqrt(2) z)
        L = 1/m sum_k (f(x_k) - y_k)^2

    The network has width `n`, `n` inputs and no biases. The number of examples equals
    the number of weights, `m = n (n + 1)`. Inputs, targets and initial weights are
    drawn from `N(0, 1)`, and the data are the same in every call. If the two layers,
    `params["input"]` and `params["output"]`, have different learning rates, the
    boundary between converging and diverging runs is fractal. Computations use float32,
    or float64 if `jax_enable_x64` is set, which is necessary to zoom in deeply.

    Args:
      weight_offset: offset added to the initial weights of the input layer.
        **Traceable.**
      width: width `n`, >= 1. **Static.**
      activation: `"tanh"`, `"relu"` for `sqrt(2) max(z, 0)`, or `"identity"`.
        **Static.**

    Returns:
      A `Problem` whose `evaluate` returns `train_loss`.

    Raises:
      TypeError: If an argument is not a scalar or `width` is not an integer.
      ValueError: If an argument is out of range. Traced values yield NaN instead.

    Example:
      >>> import jax
      >>> import stabjax
      >>> params = stabjax.problems.boundary_mlp().init(jax.random.key(0))
      >>> {name: layer["kernel"].shape for name, layer in params.items()}
      {'input': (16, 16), 'output': (16, 1)}

    References:
      Sohl-Dickstein, *The boundary of neural network trainability is fractal*, 2024,
      https://arxiv.org/abs/2402.06184
    """
    offset = as_scalar("weight_offset", weight_offset)
    width = as_integer("width", width)
    check_choice("activation", activation, tuple(_ACTIVATIONS))
    rng = np.random.default_rng(0)
    dtype = jnp.result_type(float)
    inputs, targets = (
        rng.normal(size=(width * (width + 1), columns)).astype(dtype)
        for columns in (width, 1)
    )

    def module(rngs: nnx.Rngs) -> nnx.Module:
        return _BoundaryMLP(width, dtype, _ACTIVATIONS[activation], rngs)

    problem = supervised(module, inputs, targets, optax.squared_error)

    def init(key: jax.Array) -> optax.Params:
        params: Any = problem.init(key)
        first = params["input"]["kernel"]
        first[...] = first[...] + offset
        return params

    metadata = {
        "name": "boundary_mlp",
        "baseline": float(np.var(targets)),
        "steps": 500,
        "target_loss": 0.5,
        "optimizer": optax.sgd,
        # The outputs are divided by the width, so stable rates are far above 1.
        "peak_value": (1e-3, 1e6),
        "max_norm": (1e-4, 10.0),
    }
    return replace(problem, init=init, metadata=metadata)


class _BoundaryMLP(nnx.Module):
    """Two linear layers whose outputs are divided by a power of the input size."""

    def __init__(
        self,
        width: int,
        dtype: np.dtype,
        activation: Callable[[jax.Array], jax.Array],
        rngs: nnx.Rngs,
    ) -> None:
        """Initializes the two layers."""
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
        """Maps (examples, width) to (examples, 1)."""
        width = x.shape[-1]
        # With examples along the last axis, a batch of trials becomes a single matrix
        # product with x, which is three times as fast on CPU as calling the layers.
        z = jnp.einsum("io,ei->oe", self.input.kernel[...], x)
        hidden = self.activation(z / width**0.5)
        return jnp.einsum("ok,oe->ek", self.output.kernel[...], hidden) / width
