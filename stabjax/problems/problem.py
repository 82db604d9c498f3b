"""What a training problem is: two pure functions, and what is known about them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import optax

from stabjax.problems.arguments import Number

Init = Callable[[jax.Array], Any]
Loss = Callable[[Any, jax.Array], jax.Array]
Evaluate = Callable[[Any, jax.Array], Mapping[str, jax.Array]]


class _Fields(NamedTuple):
    init: Init
    loss: Loss
    evaluate: Evaluate | None
    facts: Mapping[str, Any]


class Problem(_Fields):
    """Something to train: where it starts, what it minimises, and what is known of it.

    ``init(key) -> params`` makes the parameters, any pytree of arrays, and
    ``loss(params, key) -> scalar`` is minimised; its key is another one at each step,
    to draw a minibatch or a noise. Both are pure, so that they can be compiled and
    batched.

    ``facts`` says what is known, and every entry is optional. The problems of this
    package use these keys:

    ======================  =====================================================
    ``"name"``              the name of the problem
    ``"optimum"``           the smallest value of the loss
    ``"minimizer"``         parameters at which the loss is ``"optimum"``
    ``"steps"``             a sensible number of steps for one training
    ``"target_loss"``       a loss that a good training has reached by then
    ``"baseline"``          the loss of the best constant answer
    ``"optimizer"``         the usual one, as a function of the learning rate
    ``"stable_rate"``       the constant learning rate up to which plain gradient
                            descent, without clipping, is stable
    ``"peak_value"``        (low, high), learning rates of that optimizer worth a
                            sweep: from two decades below ``"stable_rate"``, where
                            that is known, to two above it or more
    ``"max_norm"``          (low, high), clipping thresholds worth a sweep: from far
                            below the norms of the first gradients to above them
    ======================  =====================================================

    Args:
      init: function of a key that returns the parameters.
      loss: function of the parameters and a key that returns a scalar.
      evaluate: function of the parameters and a key that returns a dict of scalars, to
        be called now and then (a test loss, an accuracy), or None.
      facts: mapping from text to whatever is known; kept as a read-only copy.

    Returns:
      An immutable, hashable problem.

    Raises:
      TypeError: if a function is not callable or ``facts`` is not a mapping.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> problem = stabjax.problems.Problem(
      ...     init=lambda key: jax.random.uniform(key, (3,)),
      ...     loss=lambda params, key: jnp.sum(params**4),
      ...     facts={"optimum": 0.0},
      ... )
      >>> params = problem.init(jax.random.key(0))
      >>> bool(problem.loss(params, jax.random.key(1)) > problem.facts["optimum"])
      True
    """

    __slots__ = ()

    def __new__(
        cls,
        init: Init,
        loss: Loss,
        evaluate: Evaluate | None = None,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> "Problem":
        """Checks the four fields: a typing mistake should not surface in a sweep."""
        functions = {"init": init, "loss": loss}
        if evaluate is not None:
            functions["evaluate"] = evaluate
        for name, function in functions.items():
            if not callable(function):
                raise TypeError(f"{name} must be a function, got {function!r}")
        if not isinstance(facts, Mapping):
            raise TypeError(f"facts must be a mapping such as a dict, got {facts!r}")
        return super().__new__(cls, init, loss, evaluate, MappingProxyType({**facts}))

    # Equal by its functions, so that it can be a static argument of `jax.jit`: facts
    # may be arrays, which have no hash.
    def __hash__(self) -> int:
        """The hash of the functions."""
        return hash(self[:3])

    def __eq__(self, other: object) -> bool:
        """Whether the functions are the same."""
        return isinstance(other, Problem) and self[:3] == other[:3]

    def __ne__(self, other: object) -> bool:
        """Whether a function differs."""
        return not self == other


def ranges(stable_rate: Number, norm: Number) -> dict[str, Any]:
    """The ranges worth a sweep, around a rate of SGD and below a gradient's norm."""
    return {
        "optimizer": optax.sgd,
        "stable_rate": stable_rate,
        "peak_value": (0.01 * stable_rate, 100 * stable_rate),
        "max_norm": (0.001 * norm, 10 * norm),
    }
