"""What a problem is: two pure functions, and what is known about them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import jax

Params: TypeAlias = Any  # a pytree of arrays, which only the problem's functions know
Init: TypeAlias = Callable[[jax.Array], Params]
Loss: TypeAlias = Callable[..., Any]
Evaluate: TypeAlias = Callable[..., Mapping[str, jax.Array]]
Batch: TypeAlias = Callable[[jax.Array, jax.Array], Any]


@dataclass(frozen=True)
class Problem:
    """A training problem: how parameters start, the loss, and what is known about them.

    `init(key) -> params` returns the initial parameters, any pytree of arrays, and
    `loss(params, key) -> scalar` is minimized. The key differs at every step, to draw a
    minibatch or noise. All functions are pure, so they can be compiled and batched.

    The first parameter of `loss` is `params`. The others are passed by name, in any
    order and number:

    - `key`: the key of the step
    - `step`: the number of updates so far (int32)
    - `batch`: the result of `batch(step, key)`, whose key is the same at every step, so
      that epochs can be permutations of one data set
    - `state`: what the model carries from step to step and no gradient changes, such as
      batch statistics or the hidden units of a recurrent network

    If `loss` has a parameter `state`, `init` returns `(params, state)` and `loss`
    returns `(loss, state)`. Either kind of loss may also return metrics, a dict of
    scalars to record, as the last element: `(loss, state, metrics)` or
    `(loss, metrics)`. A guard that skips a step leaves the state unchanged, too.
    `evaluate` takes `params` and, by name, `key`, `step` and `state`. A second
    parameter of another name, as in `loss(w, k)`, is the key.

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
    - `"final_loss"`: the entry of `evaluate` that is the final loss of a run, such as
      `"test_loss"`; without it, the final loss is `loss` on the evaluation key

    Args:
      init: function of a key that returns the parameters, or `(params, state)`.
      loss: function of the parameters, and by name as above, that returns a scalar.
      evaluate: function of the parameters, and by name as above, that returns a dict of
        scalars, such as a test loss or an accuracy, or None.
      metadata: mapping from text to what is known; kept as a read-only copy.
      batch: function of a step and a key that returns the batch of the step, any pytree
        of arrays, or None.

    Returns:
      An immutable, hashable problem.

    Raises:
      TypeError: a function is not callable, or `metadata` is not a mapping.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import stabjax
      >>> problem = stabjax.problems.Problem(
      ...     init=lambda key: jax.random.uniform(key, (3,)),
      ...     loss=lambda params, key: jnp.sum(params**4),
      ...     metadata={"optimum": 0.0},
      ... )
      >>> params = problem.init(jax.random.key(0))
      >>> bool(problem.loss(params, jax.random.key(1)) > problem.metadata["optimum"])
      True

      A recurrent carry, from one piece of a series to the next:

      >>> def loss(params, state, batch):
      ...     hidden = jnp.tanh(params["a"] * state + params["b"] * batch)
      ...     return (hidden - batch) ** 2, hidden
      >>> series = jnp.sin(jnp.arange(100.0))
      >>> problem = stabjax.problems.Problem(
      ...     init=lambda key: ({"a": jnp.ones(()), "b": jnp.ones(())}, jnp.zeros(())),
      ...     loss=loss,
      ...     batch=lambda step, key: series[step % 100],
      ... )
      >>> run = stabjax.train(problem, optax.sgd(0.1), jax.random.key(0), steps=200)
      >>> bool(run.final_loss < 0.1), run.state.shape
      (True, ())
    """

    init: Init
    loss: Loss
    evaluate: Evaluate | None = None
    # Not compared: it may hold arrays, which have no hash.
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    batch: Batch | None = None

    def __post_init__(self) -> None:
        """Checks the fields here, so that a mistake does not surface in a sweep."""
        functions: dict[str, Any] = {"init": self.init, "loss": self.loss}
        optional = {"evaluate": self.evaluate, "batch": self.batch}
        functions |= {name: f for name, f in optional.items() if f is not None}
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
        functions = self.init, self.loss, self.evaluate
        return Problem, (*functions, dict(self.metadata), self.batch)
