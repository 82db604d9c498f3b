"""Problems made of a Flax module and data."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from flax.errors import InvalidRngError

from stabjax._arguments import as_integer
from stabjax._train.problem import Init, Problem
from stabjax._types import Number

Array = jax.Array | np.ndarray
Pair = tuple[Array, Array]  # inputs and targets
Apply = Callable[[optax.Params, jax.Array], Any]
Measure = Callable[[jax.Array, jax.Array], jax.Array]


def supervised(
    module: object,
    inputs: Array,
    targets: Array,
    loss: Measure,
    *,
    batch_size: int | None = None,
    test: Pair | None = None,
    metrics: Mapping[str, Measure] | None = None,
) -> Problem:
    """Flax module, NNX or Linen, fitted to arrays.

        L(theta) = 1/B sum_b loss(f_theta(x_b), y_b)

    over a minibatch of `B` examples that the key of the step draws with replacement, or
    over all examples if `batch_size` is None. `evaluate` always uses all examples. It
    returns `train_loss`, `test_loss` if there are test data, and the same for each
    metric.

    A module may have no state but its params: batch statistics, dropout and other state
    are not supported. An array of an NNX module that is not an `nnx.Variable` is a
    constant, the same for all seeds.

    Args:
      module: a Linen module, such as `linen.Dense(10)`, or a function (or class) that
        makes an NNX module from an `nnx.Rngs`, such as
        `lambda rngs: nnx.Linear(64, 10, rngs=rngs)`. It is a function because each seed
        needs a different start. The module is called with one batch of inputs.
      inputs: array whose first axis counts the examples. **Traceable.**
      targets: array of the same length. **Traceable.**
      loss: function of outputs and targets whose result, of any shape, is averaged,
        such as `optax.softmax_cross_entropy_with_integer_labels`.
      batch_size: examples in each step, in [1, number of examples], or None for all.
        **Static.**
      test: pair of held-out inputs and targets for `evaluate`.
      metrics: functions like `loss`, by name, for `evaluate` alone.

    Returns:
      A `Problem`. Its params are those of Flax: for Linen the dict under `"params"`,
      for NNX the state that `nnx.update(model, params)` accepts.

    Raises:
      TypeError: `module` is neither kind of module, a function is not callable, `test`
        is not a pair, or `metrics` is not a dict.
      ValueError: lengths differ, `batch_size` is out of range, a metric is called
        `"loss"`, or the module has state other than params.

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
        if not isinstance(test, tuple | list) or len(test) != 2:
            raise TypeError(f"test must be a pair (inputs, targets), got {test!r:.60}.")
        sets["test"] = _examples("test ", *test)
    measures = _measures(loss, metrics or {})
    x, y = sets["train"]
    init, apply = _init_and_apply(module, x)
    if batch_size is not None:
        batch_size = as_integer("batch_size", batch_size, f"in [1, {len(x)}]")

    def draw(key: jax.Array) -> Pair:
        batch = jnp.asarray(x), jnp.asarray(y)
        if batch_size is None:
            return batch
        # `bits` compiles three times as fast as `randint`; its bias is below
        # len(x) / 2^32.
        index = jax.random.bits(key, (batch_size,), jnp.uint32) % np.uint32(len(x))
        return batch[0][index], batch[1][index]

    return network_problem(init, apply, measures, draw, lambda key: sets, {})


def network_problem(
    init: Init,
    apply: Apply,
    measures: Mapping[str, Measure],
    draw: Callable[[jax.Array], Pair],
    held_out: Callable[[jax.Array], Mapping[str, Pair]],
    metadata: Mapping[str, object],
) -> Problem:
    """Returns the problem that minimizes the mean of `measures["loss"]`.

    `draw(key)` returns the minibatch of a step. `held_out(key)` returns the data sets
    that `evaluate` applies every measure to, by name.
    """

    def loss(params: optax.Params, key: jax.Array) -> jax.Array:
        inputs, targets = map(jnp.asarray, draw(key))
        return jnp.mean(measures["loss"](apply(params, inputs), targets))

    def evaluate(params: optax.Params, key: jax.Array) -> dict[str, jax.Array]:
        return {
            f"{name}_{measured}": jnp.mean(measure(outputs, jnp.asarray(targets)))
            for name, (inputs, targets) in held_out(key).items()
            for outputs in [apply(params, jnp.asarray(inputs))]
            for measured, measure in measures.items()
        }

    return Problem(init, loss, evaluate, metadata)


def _measures(loss: Measure, metrics: Mapping[str, Measure]) -> dict[str, Measure]:
    """Returns the loss and the metrics by name, after checking them."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a dict of functions, got {metrics!r}.")
    if "loss" in metrics:
        raise ValueError("metrics must not have the name of the loss, got 'loss'.")
    measures = {"loss": loss, **metrics}
    for name, measure in measures.items():
        if not callable(measure):
            raise TypeError(f"{name} must be a function, got {measure!r}.")
    return measures


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns whether the largest logit is that of the label."""
    return jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels


def scaled_normal(init: Init, scale_of: Callable[[str], Number]) -> Init:
    """Returns an init with matrices from `scale N(0, 1 / inputs)`, and zeros elsewhere.

    `scale_of` returns the scale of the matrix at a path. All matrices are cut from one
    draw: compiling a draw for each of them takes longer than compiling the training.
    """

    def scaled_init(key: jax.Array) -> optax.Params:
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


def _examples(which: str, inputs: Array, targets: Array) -> Pair:
    """Returns both as arrays, after checking that they have equal length."""
    # NumPy arrays stay so: a factory may be called in a trace and again outside.
    x, y = (a if isinstance(a, jax.Array) else np.asarray(a) for a in (inputs, targets))
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise ValueError(
            f"{which}inputs and targets must be arrays with the same number of examples"
            f" along their first axis, got shapes {x.shape} and {y.shape}."
        )
    return x, y


def _init_and_apply(module: object, inputs: Array) -> tuple[Init, Apply]:
    """Returns key -> params and (params, inputs) -> outputs of a Flax module."""
    if isinstance(module, linen.Module):
        return _from_linen(module, inputs)
    if isinstance(module, type) and issubclass(module, linen.Module):
        raise TypeError(
            "module must be an instance of a Linen module, such as"
            f" {module.__name__}(...), got the class."
        )
    if isinstance(module, nnx.Module) or not callable(module):
        raise TypeError(
            "module must be a Linen module or a function of nnx.Rngs that makes an NNX"
            " module, such as lambda rngs: MLP(rngs=rngs), got"
            f" {type(module).__name__}."
        )
    if isinstance(module, type) and _takes_rngs(module):
        # A class often has `rngs` as a keyword-only argument.
        return from_nnx(lambda rngs: module(rngs=rngs))
    return from_nnx(module)


def _from_linen(module: linen.Module, inputs: Array) -> tuple[Init, Apply]:
    def variables(key: jax.Array) -> Mapping[str, optax.Params]:
        return module.init(key, jnp.asarray(inputs[:1]))

    def init(key: jax.Array) -> optax.Params:
        return variables(key).get("params", {})

    def apply(params: Any, x: jax.Array) -> Any:
        return module.apply({"params": params}, x)

    key = jax.random.key(0)
    _refuse_state(set(jax.eval_shape(variables, key)) - {"params"})
    try:
        jax.eval_shape(apply, jax.eval_shape(init, key), inputs[:1])
    except InvalidRngError:
        _refuse_state({"random numbers"})
    return init, apply


def from_nnx(make: Callable[[nnx.Rngs], Any]) -> tuple[Init, Apply]:
    """Returns key -> params and (params, inputs) -> outputs of an NNX module."""
    # Abstract, so that nothing is computed, and nothing is traced by an outer trace.
    shape = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    if not isinstance(shape, nnx.Module):
        raise TypeError(
            f"module must make an NNX module, got {type(shape).__name__} from it."
        )
    definition, _, *others = nnx.split(shape, nnx.Param, ...)
    variables = jax.tree.leaves(others, is_leaf=lambda v: isinstance(v, nnx.Variable))
    _refuse_state({type(variable).__name__ for variable in variables})
    # Flax 0.12.1 makes it a ShapeDtypeStruct, as it does no variable.
    arrays = jax.Array | jax.ShapeDtypeStruct
    if any(isinstance(part, arrays) for _, part in nnx.iter_graph(shape)):
        # An array that is not a variable is a constant, so its value is needed.
        with jax.ensure_compile_time_eval():
            definition, _, *others = nnx.split(make(nnx.Rngs(0)), nnx.Param, ...)

    def init(key: jax.Array) -> optax.Params:
        return nnx.state(make(nnx.Rngs(key)), nnx.Param)

    def apply(params: optax.Params, x: jax.Array) -> Any:
        return nnx.merge(definition, params, *others)(x)

    return init, apply


def _takes_rngs(module: Any) -> bool:
    return "rngs" in inspect.signature(module.__init__).parameters


def _refuse_state(found: set[str]) -> None:
    if found:
        raise ValueError(
            "module must have no state but its params (no dropout, no batch"
            f" statistics), got {', '.join(sorted(found))}."
        )
