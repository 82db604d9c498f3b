"""What a problem is: two pure functions, and what is known about them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import jax

Params: TypeAlias = Any  # a pytree of arrays, which only the problem's functions know
Init: TypeAlias = Callable[[jax.Array], Params]
Loss: TypeAlias = Callable[[Params, jax.Array], jax.Array]
Evaluate: TypeAlias = Callable[[Params, jax.Array], Mapping[str, jax.Array]]


@dataclass(frozen=True)
class Problem:
    """A training problem: how parameters start, the loss, and what is known about them.

    `init(key) -> params` returns the initial parameters, any pytree of arrays, and
    `loss(params, key) -> scalar` is minimized. The key differs at every step, to draw a
    minibatch or noise. Both functions are pure, so they can be compiled and batched.

    Two problems are equal if their functions are, so a problem can be a static argument
    of `jax.jit`.

    Every entry of `metadata` is optional. The problems of this package use these keys:

    - `"name"`: the name of the problem
    - `"optimum"`: the smallest value of the loss
    - `"minimizer"`: parameters at which the loss is `"optimum"`
    - `"steps"`: a sensible number of training steps
    - `"target_loss"`: a loss that a good run reaches by then
    - `"baseline"`: the loss of the best constant prediction
    - `"optimizer"`: the usual optimizer, as a function of the learning rate
    - `"stable_rate"`: the constant learning rate up to which plain gradient descent is
      stable
    - `"peak_value"`: (low, high), learning rates of that optimizer worth sweeping: from
      two decades below `"stable_rate"`, where that is known, to at least two above
    - `"max_norm"`: (low, high), clipping thresholds worth sweeping: from far below the
      norms of the first gradients to above them

    Args:
      init: function of a key that returns the parameters.
      loss: function of the parameters and a key that returns a scalar.
      evaluate: function of the parameters and a key that returns a dict of scalars,
        such as a test loss or an accuracy, or None.
      metadata: mapping from text to what is known; kept as a read-only copy.

    Returns:
      An immutable, hashable problem.

    Raises:
      TypeError: a function is not callable, or `metadata` is not a mapping.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.Problem(
      ...     init=lambda key: jax.random.uniform(key, (3,)),
      ...     loss=lambda params, key: jnp.sum(params**4),
      ...     metadata={"optimum": 0.0},
      ... )
      >>> params = problem.init(jax.random.key(0))
      >>> bool(problem.loss(params, jax.random.key(1)) > problem.metadata["optimum"])
      True
    """

    init: Init
    loss: Loss
    evaluate: Evaluate | None = None
    # Not compared: it may hold arrays, which have no hash.
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Checks the fields here, so that a mistake does not surface in a sweep."""
        functions = {"init": self.init, "loss": self.loss}
        if self.evaluate is not None:
            functions["evaluate"] = self.evaluate
        for name, function in functions.items():
            if not callable(function):
                raise TypeError(f"{name} must be a function, got {function!r}.")
        if not isinstance(self.metadata, Mapping):
            raise TypeError(
                f"metadata must be a mapping such as a dict, got {self.metadata!r}."
            )
        object.__setattr__(self, "metadata", MappingProxyType({**self.metadata}))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the metadata as a dict: a mappingproxy cannot be pickled."""
        return Problem, (self.init, self.loss, self.evaluate, dict(self.metadata))
