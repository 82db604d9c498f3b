"""The `Problem` dataclass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import jax

Params: TypeAlias = Any  # a pytree of arrays; its structure is up to the problem
Init: TypeAlias = Callable[[jax.Array], Params]
Loss: TypeAlias = Callable[[Params, jax.Array], jax.Array]
Evaluate: TypeAlias = Callable[[Params, jax.Array], Mapping[str, jax.Array]]


@dataclass(frozen=True)
class Problem:
    """A training problem: an initializer, a loss function and optional metadata.

    `init(key)` returns the initial parameters, which can be any pytree of arrays.
    `loss(params, key)` returns the scalar to minimize. The key differs at every step
    and can be used to draw a minibatch or noise. Both functions must be pure, so that
    JAX can compile and vectorize them.

    Two problems are equal if their functions are equal, so a problem can be a static
    argument of `jax.jit`.

    All entries of `metadata` are optional. The built-in problems use these keys:

    - `"name"`: the name of the problem
    - `"optimum"`: the minimum of the loss
    - `"minimizer"`: parameters that attain the minimum
    - `"steps"`: a sensible number of training steps
    - `"target_loss"`: a loss that a good run reaches within `"steps"` steps
    - `"baseline"`: the loss of the best constant prediction
    - `"optimizer"`: the usual optimizer, as a function of the learning rate
    - `"stable_rate"`: the largest constant learning rate for which plain gradient
      descent is stable
    - `"peak_value"`: a (low, high) range of learning rates to sweep with that
      optimizer. If `"stable_rate"` is known, the range extends from two decades below
      it to at least two decades above it
    - `"max_norm"`: a (low, high) range of clipping thresholds to sweep, from far below
      the initial gradient norms to above them

    Args:
      init: a function that takes a key and returns the initial parameters.
      loss: a function that takes the parameters and a key and returns a scalar.
      evaluate: a function that takes the parameters and a key and returns a dict of
        scalars, such as a test loss or an accuracy. Defaults to None.
      metadata: a dict that describes the problem. A read-only copy is stored.

    Returns:
      An immutable, hashable problem.

    Raises:
      TypeError: If a function is not callable or `metadata` is not a mapping.

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
    # Excluded from comparison because it can contain arrays, which are not hashable.
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Checks the fields early, before a sweep traces the functions."""
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
        """Pickles the metadata as a dict because a mappingproxy cannot be pickled."""
        return Problem, (self.init, self.loss, self.evaluate, dict(self.metadata))
