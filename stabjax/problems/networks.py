"""Problems made of a Flax module and data, and what makes such problems."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.errors import InvalidRngError
from jax.typing import ArrayLike

from stabjax._train.problem import Init, Problem
from stabjax.problems.arguments import size

Apply = Callable[[Any, jax.Array], Any]
Measure = Callable[[jax.Array, jax.Array], jax.Array]


def supervised(
    module: Any,
    inputs: ArrayLike,
    targets: ArrayLike,
    loss: Measure,
    *,
    batch_size: int | None = None,
    test: tuple[ArrayLike, ArrayLike] | None = None,
    metrics: Mapping[str, Measure] | None = None,
) -> Problem:
    r"""A Flax module, NNX or Linen, fitted to arrays.

    .. math:: L(\theta) = \frac1B \sum_{b=1}^B \ell(f_\theta(x_{i_b}), y_{i_b})

    with :math:`B` examples drawn with replacement by the key of the step, or all of
    them in order if ``batch_size`` is None. ``evaluate`` always uses all of them and
    returns ``train_loss``, ``test_loss`` if there are test data, and the same two of
    each metric, so that over-fitting can be seen.

    Params are all the state that a module may have here: a module with batch
    statistics, dropout or other state is refused. Nothing is trained or drawn behind
    the optimizer's back, so a training is a function of its seed. An array of an NNX
    module that is no ``nnx.Variable`` is a constant, the same for all seeds.

    Args:
      module: a Linen module, such as ``linen.Dense(10)``; or for NNX a function (or
        class) of an ``nnx.Rngs`` that makes the module, such as
        ``lambda rngs: nnx.Linear(64, 10, rngs=rngs)``, because each seed needs another
        start. Called with one batch of inputs.
      inputs: array whose first axis counts the examples; may be traced.
      targets: array of the same length; may be traced.
      loss: function of outputs and targets whose result, of any shape, is averaged,
        such as ``optax.softmax_cross_entropy_with_integer_labels``.
      batch_size: examples in each step, or None for all; static.
      test: a pair of inputs and targets kept for ``evaluate``.
      metrics: functions like ``loss``, by name, for ``evaluate`` alone.

    Returns:
      A :class:`stabjax.problems.Problem`. Its params are those of Flax: for Linen the
      dict under ``"params"``, for NNX the state that ``nnx.update(model, params)``
      takes.

    Raises:
      TypeError: if ``module`` is neither, a function is not callable, ``test`` is no
        pair, or ``metrics`` no dict.
      ValueError: if lengths differ, ``batch_size`` does not fit, a metric is called
        ``"loss"``, or the module has state other than params.

    Example:
      >>> import jax, optax
      >>> import stabjax
      >>> from flax import nnx
      >>> x = jax.random.normal(jax.random.key(0), (100, 3))
      >>> problem = stabjax.problems.supervised(
      ...     lambda rngs: nnx.Linear(3, 1, rngs=rngs),
      ...     x, x.sum(axis=1, keepdims=True), optax.squared_error, batch_size=10,
      ... )
      >>> params = problem.init(jax.random.key(1))
      >>> [p.shape for p in jax.tree.leaves(params)]
      [(1,), (3, 1)]
      >>> list(problem.evaluate(params, jax.random.key(2)))
      ['train_loss']
    """
    sets = {"train": _examples("", inputs, targets)}
    if test is not None:
        if not isinstance(test, (tuple, list)) or len(test) != 2:
            raise TypeError(f"test must be a pair (inputs, targets), got {test!r:.60}")
        sets["test"] = _examples("test ", *test)
    measures = _measures(loss, metrics or {})
    x, y = sets["train"]
    init, apply = init_and_apply(module, x)
    if batch_size is not None:
        batch_size = size("batch_size", batch_size, largest=len(x))

    def batch_loss(params: Any, key: jax.Array) -> jax.Array:
        batch = (jnp.asarray(x), jnp.asarray(y))
        if batch_size is not None:
            # One draw, a third of the compilation of `randint`; its bias is below
            # len(x) / 2**32.
            index = jax.random.bits(key, (batch_size,), jnp.uint32) % np.uint32(len(x))
            batch = (batch[0][index], batch[1][index])
        return jnp.mean(loss(apply(params, batch[0]), batch[1]))

    def evaluate(params: Any, key: jax.Array) -> dict[str, jax.Array]:
        del key
        return {
            f"{which}_{name}": jnp.mean(measure(outputs, jnp.asarray(wanted)))
            for which, (given, wanted) in sets.items()
            for outputs in [apply(params, jnp.asarray(given))]
            for name, measure in measures.items()
        }

    return Problem(init, batch_loss, evaluate)


def _measures(loss: Measure, metrics: Mapping[str, Measure]) -> dict[str, Measure]:
    """All of them by name, checked."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a dict of functions, got {metrics!r}")
    if "loss" in metrics:
        raise ValueError("metrics must not have the name of the loss, got 'loss'")
    measures = {"loss": loss, **metrics}
    for name, measure in measures.items():
        if not callable(measure):
            raise TypeError(f"{name} must be a function, got {measure!r}")
    return measures


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest logit is that of the label."""
    return jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels


def scaled_normal(init: Init, scale_of: Callable[[str], ArrayLike]) -> Init:
    """An init with normal matrices, divided by the root of their inputs, and zeros.

    ``scale_of`` gets the path of a matrix and returns what to multiply it by. All
    matrices are drawn at once, because compiling one draw per matrix takes several
    times as long as compiling the training.
    """

    def scaled_init(key: jax.Array) -> Any:
        leaves, tree = jax.tree.flatten_with_path(jax.eval_shape(init, key))
        matrices = [leaf for _, leaf in leaves if leaf.ndim > 1]
        ends = np.cumsum([matrix.size for matrix in matrices])
        pieces = iter(jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1]))
        values = [
            scale_of(jax.tree_util.keystr(path))
            * next(pieces).reshape(leaf.shape)
            / np.sqrt(leaf.size / leaf.shape[-1])
            if leaf.ndim > 1
            else jnp.zeros(leaf.shape)
            for path, leaf in leaves
        ]
        return jax.tree.unflatten(tree, values)

    return scaled_init


def _examples(which: str, inputs: ArrayLike, targets: ArrayLike) -> tuple[Any, Any]:
    """The two arrays, checked to be of equal length."""
    # Kept as NumPy if they are: a factory may be called in a trace, and again outside.
    x, y = (a if isinstance(a, jax.Array) else np.asarray(a) for a in (inputs, targets))
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise ValueError(
            f"{which}inputs and targets must be arrays with the same number of examples"
            f" along their first axis, got shapes {x.shape} and {y.shape}"
        )
    return x, y


def init_and_apply(module: Any, inputs: Any) -> tuple[Init, Apply]:
    """A Flax module as key -> params and (params, inputs) -> outputs."""
    if isinstance(module, linen.Module):
        return _linen(module, inputs)
    if isinstance(module, type) and issubclass(module, linen.Module):
        raise TypeError(
            "module must be an instance of a Linen module, such as"
            f" {module.__name__}(...), got the class"
        )
    if isinstance(module, nnx.Module) or not callable(module):
        raise TypeError(
            "module must be a Linen module or a function of nnx.Rngs that makes an NNX"
            f" module, such as lambda rngs: MLP(rngs=rngs), got {type(module).__name__}"
        )
    if isinstance(module, type) and _takes_rngs(module):
        return _nnx(lambda rngs: module(rngs=rngs))  # often a keyword, and no more
    return _nnx(module)


def _linen(module: linen.Module, inputs: Any) -> tuple[Init, Apply]:
    def variables(key: jax.Array) -> Any:
        return module.init(key, jnp.asarray(inputs[:1]))

    def init(key: jax.Array) -> Any:
        return variables(key).get("params", {})

    def apply(params: Any, x: jax.Array) -> Any:
        return module.apply({"params": params}, x)

    key = jax.random.key(0)
    _only_params(set(jax.eval_shape(variables, key)) - {"params"})
    try:
        jax.eval_shape(apply, jax.eval_shape(init, key), inputs[:1])
    except InvalidRngError:
        _only_params({"random numbers"})
    return init, apply


def _nnx(make: Callable[[nnx.Rngs], Any]) -> tuple[Init, Apply]:
    # Abstract, so that nothing is computed, also if we are in a trace already.
    shape = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    if not isinstance(shape, nnx.Module):
        raise TypeError(f"module must make an NNX module, made {type(shape).__name__}")
    definition, _, *others = nnx.split(shape, nnx.Param, ...)
    variables = jax.tree.leaves(others, is_leaf=lambda v: isinstance(v, nnx.Variable))
    _only_params({type(variable).__name__ for variable in variables})
    if any(isinstance(part, jax.Array) for _, part in nnx.iter_graph(shape)):
        # An array that is no variable is a constant, of which the value is needed.
        with jax.ensure_compile_time_eval():
            definition, _, *others = nnx.split(make(nnx.Rngs(0)), nnx.Param, ...)

    def init(key: jax.Array) -> Any:
        return nnx.state(make(nnx.Rngs(key)), nnx.Param)

    def apply(params: Any, x: jax.Array) -> Any:
        return nnx.merge(definition, params, *others)(x)

    return init, apply


def _takes_rngs(kind: Any) -> bool:
    return "rngs" in inspect.signature(kind.__init__).parameters


def _only_params(others: set[str]) -> None:
    if others:
        raise ValueError(
            "module must have no state but its params (no dropout, no batch"
            f" statistics), got {', '.join(sorted(others))}"
        )
