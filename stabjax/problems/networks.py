"""Supervised problems for Flax modules."""

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
    """Supervised learning with a Flax module (NNX or Linen).

        L(theta) = 1/B sum_b loss(f_theta(x_b), y_b)

    The loss is averaged over a minibatch of `B` examples, sampled with replacement at
    every step, or over all examples if `batch_size` is None. `evaluate` always uses all
    examples. It returns `train_loss` and, if there are test data, `test_loss`, and the
    corresponding values of each metric.

    The module must not have any state besides its parameters. Batch statistics and
    dropout are not supported. In an NNX module, arrays that are not an `nnx.Variable`
    are constants and do not depend on the seed.

    Args:
      module: a Linen module, such as `linen.Dense(10)`, or a function or class that
        takes an `nnx.Rngs` and returns an NNX module, such as
        `lambda rngs: nnx.Linear(64, 10, rngs=rngs)`. The function is called with new
        random keys for each seed. The module is called with a batch of inputs.
      inputs: array of examples along the leading axis. **Traceable.**
      targets: array with the same leading axis. **Traceable.**
      loss: a function of outputs and targets, such as
        `optax.softmax_cross_entropy_with_integer_labels`. Its result can have any shape
        and is averaged.
      batch_size: number of examples per step, in [1, number of examples]. None uses all
        examples. **Static.**
      test: a pair of held-out inputs and targets for `evaluate`.
      metrics: a dict of functions with the same signature as `loss`. Used only by
        `evaluate`.

    Returns:
      A `Problem` with the parameters of the Flax module. For Linen, they are the
      `"params"` collection. For NNX, they are a state that can be passed to
      `nnx.update(model, params)`.

    Raises:
      TypeError: If `module` is not a Flax module, a function is not callable, `test` is
        not a pair, or `metrics` is not a dict.
      ValueError: If the lengths differ, `batch_size` is out of range, a metric has the
        name `"loss"`, or the module has state besides its parameters.

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
        # `jax.random.bits` compiles three times as fast as `jax.random.randint`. The
        # bias of the modulo is smaller than len(x) / 2^32.
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
    """Returns a problem that minimizes the mean of `measures["loss"]`.

    `draw(key)` returns a minibatch. `held_out(key)` returns a dict of data sets, on
    which `evaluate` computes all measures.
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
    """Checks the loss and the metrics and merges them into a dict."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a dict of functions, got {metrics!r}.")
    if "loss" in metrics:
        raise ValueError("metrics must not contain the name 'loss', which is reserved.")
    measures = {"loss": loss, **metrics}
    for name, measure in measures.items():
        if not callable(measure):
            raise TypeError(f"{name} must be a function, got {measure!r}.")
    return measures


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns whether the label has the largest logit."""
    return jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels


def scaled_normal(init: Init, scale_of: Callable[[str], Number]) -> Init:
    """Returns an init function with scaled normal matrices and zeros elsewhere.

    A matrix with `n` inputs is drawn from `s N(0, 1 / n)`, where `s` is the value of
    `scale_of` for its path. All matrices are slices of a single array of random
    numbers. Compiling one draw per matrix would take longer than compiling the training
    loop.
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
    """Converts inputs and targets to arrays and checks that their lengths match."""
    # NumPy arrays are not converted to JAX arrays. A factory can be called inside a
    # trace, where the conversion would give tracers that leak into a later call.
    x, y = (a if isinstance(a, jax.Array) else np.asarray(a) for a in (inputs, targets))
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise ValueError(
            f"{which}inputs and targets must be arrays with the same number of examples"
            f" along their first axis, got shapes {x.shape} and {y.shape}."
        )
    return x, y


def _init_and_apply(module: object, inputs: Array) -> tuple[Init, Apply]:
    """Returns the init function and the apply function of a Flax module."""
    if isinstance(module, linen.Module):
        return _from_linen(module, inputs)
    if isinstance(module, type) and issubclass(module, linen.Module):
        raise TypeError(
            "module must be an instance of a Linen module, such as"
            f" {module.__name__}(...), got the class."
        )
    if isinstance(module, nnx.Module) or not callable(module):
        raise TypeError(
            "module must be a Linen module or a function of nnx.Rngs that returns an"
            " NNX module, such as lambda rngs: MLP(rngs=rngs), got"
            f" {type(module).__name__}."
        )
    if isinstance(module, type) and _takes_rngs(module):
        # `rngs` is usually a keyword-only argument of NNX modules.
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
    """Returns the init function and the apply function of an NNX module."""
    # eval_shape avoids computing anything and keeps outer tracers out of the module.
    shape = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    if not isinstance(shape, nnx.Module):
        raise TypeError(
            f"module must return an NNX module, got {type(shape).__name__}."
        )
    definition, _, *others = nnx.split(shape, nnx.Param, ...)
    variables = jax.tree.leaves(others, is_leaf=lambda v: isinstance(v, nnx.Variable))
    _refuse_state({type(variable).__name__ for variable in variables})
    # In Flax 0.12.1, eval_shape turns plain arrays into ShapeDtypeStructs.
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
            "module must not have state besides its parameters, such as dropout or"
            f" batch statistics, got {', '.join(sorted(found))}."
        )
