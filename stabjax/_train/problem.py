"""The `Problem` dataclass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import jax

Params: TypeAlias = Any  # a pytree of arrays; its structure is up to the problem
Init: TypeAlias = Callable[[jax.Array], Params]
Loss: TypeAlias = Callable[..., Any]
Evaluate: TypeAlias = Callable[..., Mapping[str, jax.Array]]
Batch: TypeAlias = Callable[[jax.Array, jax.Array], Any]


@dataclass(frozen=True)
class Problem:
    """A training problem: an initializer, a loss function and optional metadata.

    `init(key)` returns the initial parameters, which can be any pytree of arrays.
    `loss(params, key)` returns the scalar to minimize. The key differs at every step
    and can be used to draw a minibatch or noise. All functions must be pure, so that
    JAX can compile and vectorize them.

    The parameters of `loss` after the first are passed by name:

    - `key`: the random key of the step
    - `step`: the number of updates so far (int32)
    - `batch`: the result of `batch(step, key)`. This key is the same at every step,
      which allows `batch` to permute the examples of an epoch
    - `state`: arrays that the model updates at every step in addition to its
      parameters, such as batch statistics or the hidden state of a recurrent network

    If `loss` has a parameter `state`, `init` returns `(params, state)` and `loss`
    returns `(loss, state)`. A guard that skips a step also leaves the state unchanged.
    To record metrics, `loss` can return a dict of scalars as its last element, as in
    `(loss, metrics)` or `(loss, state, metrics)`. `evaluate` takes the parameters and,
    by name, `key`, `step` and `state`. If a function has two parameters and the second
    has a different name, as in `loss(w, k)`, it receives the key.

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
    - `"final_loss"`: the name of the entry of `evaluate` that is reported as the final
      loss, such as `"test_loss"`. By default the final loss is `loss` at the evaluation
      key
    - `"maximize"`: the names of the entries of `evaluate` whose larger values are
      better
    - `"steps_per_epoch"`: the number of steps in a pass over the data

    Args:
      init: a function that takes a key and returns the initial parameters, or
        `(params, state)`.
      loss: a function that takes the parameters and any of the arguments listed above,
        and returns a scalar or one of the tuples described above.
      evaluate: a function that takes the parameters and any of the arguments listed
        above, and returns a dict of scalars, such as a test loss or an accuracy.
        Defaults to None.
      metadata: a dict that describes the problem. A read-only copy is stored.
      batch: a function that takes a step and a key and returns the batch of the step,
        which can be any pytree of arrays. Defaults to None.

    Returns:
      An immutable, hashable problem.

    Raises:
      TypeError: If a function is not callable or `metadata` is not a mapping.

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

      A problem with a recurrent state:

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
    # Excluded from comparison because it can contain arrays, which are not hashable.
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    batch: Batch | None = None

    def __post_init__(self) -> None:
        """Checks the fields early, before a sweep traces the functions."""
        functions: dict[str, Any] = {"init": self.init, "loss": self.loss}
        optional = {"evaluate": self.evaluate, "batch": self.batch}
        functions |= {name: f for name, f in optional.items() if f is not None}
        for name, function in functions.items():
            if not callable(function):
                shown = " ".join(f"{function!r:.60}".split())
                raise TypeError(f"{name} must be a function, got {shown}.")
        if not isinstance(self.metadata, Mapping):
            raise TypeError(
                f"metadata must be a mapping such as a dict, got {self.metadata!r}."
            )
        object.__setattr__(self, "metadata", MappingProxyType({**self.metadata}))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the metadata as a dict because a mappingproxy cannot be pickled."""
        functions = self.init, self.loss, self.evaluate
        return Problem, (*functions, dict(self.metadata), self.batch)
