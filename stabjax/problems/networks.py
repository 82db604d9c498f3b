"""Problems made of a module and data."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._arguments import as_integer
from stabjax._train.problem import Init, Problem
from stabjax._types import Number
from stabjax.problems.data import (
    Array,
    Dataset,
    Examples,
    dataset,
    epoch_index,
    mean_over,
)
from stabjax.problems.model import Model
from stabjax.problems.modules import model_of

Pair = tuple[Array, Array]  # inputs and targets
Apply = Callable[[optax.Params, jax.Array], Any]
Measure = Callable[..., jax.Array]
Change = Callable[..., Any]  # of a batch, and possibly a key


def supervised(
    module: object,
    inputs: Examples,
    targets: Examples,
    loss: Measure,
    *,
    batch_size: int | None = None,
    test: tuple[Examples, Examples] | None = None,
    metrics: Mapping[str, Measure] | None = None,
    preprocess: Change | None = None,
    augment: Change | None = None,
    replace: bool = False,
    metadata: Mapping[str, object] | None = None,
) -> Problem:
    """Any module, of Flax NNX, Linen, Equinox or plain JAX, fitted to arrays.

        L(theta) = 1/B sum_b loss(f_theta(x_b), y_b)

    over the minibatch of the step. Minibatches go through the examples in epochs: each
    epoch is a new permutation of them, without the last incomplete minibatch, and is
    the same for all runs of a seed. `metadata["steps_per_epoch"]` is their number.

    Batch statistics and other state of the module are the state of the problem. Dropout
    and other random numbers come from the key of the step. A module that has both is
    in its training mode in the loss, and in its evaluation mode in `evaluate`: by its
    methods `train()` and `eval()` for NNX, by `eqx.nn.inference_mode` for Equinox, and
    for all by a parameter `train`, `training`, `deterministic` or
    `use_running_average` of its call.

    `evaluate` averages over all examples, a part of them at a time, so that its memory
    is bounded. It returns `train_loss`, `test_loss` if there are test data, and the
    same for each metric. The final loss of a run is `test_loss`, or else `train_loss`.

    Args:
      module: one of

        - a function (or class) that makes an NNX module from an `nnx.Rngs`, such as
          `lambda rngs: nnx.Linear(64, 10, rngs=rngs)`, since each seed needs a
          different start
        - a Linen module, such as `linen.Dense(10)`
        - a function of `key` that makes an Equinox module, such as
          `lambda key: eqx.nn.MLP(64, 10, 32, 1, key=key)`, or with
          `eqx.nn.make_with_state` a module and its state; it is called with one
          example, under the axis name `"batch"`
        - a pair of functions `(init, apply)`: `init(key) -> params` and
          `apply(params, inputs) -> outputs`, where `apply` may also name `key`, `train`
          and `state`; with state, they return `(params, state)` and `(outputs, state)`

        All but Equinox modules are called with one batch of inputs.
      inputs: array whose first axis counts the examples, or a dict or tuple of such
        arrays. **Traceable.**
      targets: the same, of equal length. **Traceable.**
      loss: function of outputs and targets whose result, of any shape, is averaged,
        such as `optax.softmax_cross_entropy_with_integer_labels`.
      batch_size: examples in each step, in [1, number of examples], or None for all.
        **Static.**
      test: pair of held-out inputs and targets for `evaluate`.
      metrics: functions like `loss`, by name, for `evaluate` alone.
      preprocess: function of a batch `(inputs, targets)`, and optionally a key, that
        returns the batch that the module and the loss receive, in training and in
        evaluation.
      augment: the same, for training alone and before `preprocess`.
      replace: whether minibatches are drawn with replacement, without epochs.
      metadata: entries for the metadata of the problem, such as `"name"`.

    Returns:
      A `Problem`. Its params are those of the library: for Linen the dict under
      `"params"`, for NNX the state that `nnx.update(model, params)` accepts, for
      Equinox the module with None in place of what is not trained.

    Raises:
      TypeError: `module` is not one of the above, data are not arrays, a function is
        not callable, `test` is not a pair, or `metrics` is not a dict.
      ValueError: lengths differ, `batch_size` is out of range, a metric is called
        `"loss"`, or the module cannot be switched to evaluation.

    Example:
      >>> import jax, optax
      >>> import stabjax
      >>> from flax import nnx
      >>> class Network(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.norm = nnx.BatchNorm(3, rngs=rngs)
      ...         self.drop = nnx.Dropout(0.1, rngs=rngs)
      ...         self.output = nnx.Linear(3, 1, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.output(self.drop(self.norm(x)))
      >>> x = jax.random.normal(jax.random.key(0), (100, 3))
      >>> problem = stabjax.problems.supervised(
      ...     Network, x, x.sum(axis=1, keepdims=True), optax.squared_error,
      ...     batch_size=10,
      ... )
      >>> run = stabjax.train(problem, optax.sgd(0.1), jax.random.key(1), steps=50)
      >>> bool(run.evaluation["train_loss"] < 0.5), [*run.state]
      (True, ['norm'])
    """
    sets = {"train": dataset("", inputs, targets)}
    if test is not None:
        if not isinstance(test, tuple | list) or len(test) != 2:
            raise TypeError(f"test must be a pair (inputs, targets), got {test!r:.60}.")
        sets["test"] = dataset("test ", *test)
    measures = _measures(loss, metrics or {})
    before = [_change("augment", augment), _change("preprocess", preprocess)]
    size = sets["train"].size
    if batch_size is not None:
        batch_size = as_integer("batch_size", batch_size, f"in [1, {size}]")
    example = jax.eval_shape(
        lambda key: before[1](_first(sets["train"]), key), jax.random.key(0)
    )
    model = model_of(module, example[0])
    known: dict[str, object] = {"final_loss": f"{[*sets][-1]}_loss"}
    if not replace:
        known["steps_per_epoch"] = size // (batch_size or size)
    return _problem(
        model,
        measures,
        before,
        _sampling(sets["train"], batch_size, replace),
        _evaluator(model, measures, before[1], sets, batch_size or 1),
        {**known, **(metadata or {})},
    )


def _problem(
    model: Model,
    measures: Mapping[str, Measure],
    before: list[Change],
    sampling: tuple[Change, Change | None],
    evaluate: Callable[..., dict[str, jax.Array]],
    metadata: Mapping[str, object],
) -> Problem:
    augment, preprocess = before
    drawn, epoch = sampling

    def total(
        params: optax.Params, state: Any, key: jax.Array, batch: Any
    ) -> tuple[jax.Array, Any]:
        batch = drawn(key) if batch is None else batch
        changed = augment(batch, jax.random.fold_in(key, 0))
        inputs, targets = preprocess(changed, jax.random.fold_in(key, 1))
        own = jax.random.fold_in(key, 2)
        outputs, state = model.apply(params, state, inputs, own, True)
        return jnp.mean(measures["loss"](outputs, targets)), state

    if model.has_state:

        def stateful(
            params: optax.Params, state: Any, key: jax.Array, batch: Any = None
        ) -> tuple[jax.Array, Any]:
            return total(params, state, key, batch)

        return Problem(model.init, stateful, evaluate, metadata, epoch)

    def init(key: jax.Array) -> optax.Params:
        return model.init(key)[0]

    def loss(params: optax.Params, key: jax.Array, batch: Any = None) -> jax.Array:
        return total(params, (), key, batch)[0]

    def measured(params: optax.Params, key: jax.Array) -> dict[str, jax.Array]:
        return evaluate(params, (), key)

    return Problem(init, loss, measured, metadata, epoch)


def _sampling(
    examples: Dataset, batch_size: int | None, replace: bool
) -> tuple[Change, Change | None]:
    """The minibatch of a key, and that of a step in epochs where there are any."""

    def drawn(key: jax.Array) -> Any:
        if batch_size is None:
            return jax.tree.map(jnp.asarray, (*examples,))
        # `bits` compiles three times as fast as `randint`; its bias is below
        # size / 2^32.
        bits = jax.random.bits(key, (batch_size,), jnp.uint32)
        return examples.at(bits % np.uint32(examples.size))

    def epoch(step: jax.Array, key: jax.Array) -> Any:
        return examples.at(epoch_index(examples.size, int(batch_size or 1), step, key))

    return drawn, None if replace or batch_size is None else epoch


def _evaluator(
    model: Model,
    measures: Mapping[str, Measure],
    preprocess: Change,
    sets: Mapping[str, Dataset],
    at_once: int,
) -> Callable[..., dict[str, jax.Array]]:
    def evaluate(
        params: optax.Params, state: Any, key: jax.Array
    ) -> dict[str, jax.Array]:
        def of(inputs: Any, targets: Any) -> dict[str, jax.Array]:
            inputs, targets = preprocess((inputs, targets), key)
            outputs, _ = model.apply(params, state, inputs, None, False)
            return {n: jnp.mean(f(outputs, targets)) for n, f in measures.items()}

        return {
            f"{name}_{measured}": value
            for name, examples in sets.items()
            for measured, value in mean_over(examples, at_once, of).items()
        }

    return evaluate


def _first(examples: Dataset) -> Any:
    """The first example, as a batch."""
    return jax.tree.map(lambda a: jnp.asarray(a[:1]), (*examples,))


def _change(name: str, function: Change | None) -> Change:
    """A function of batch and key that returns a batch, from one that a user gives."""
    if function is None:
        return lambda batch, key: batch
    if not callable(function):
        raise TypeError(f"{name} must be a function of a batch, got {function!r}.")
    try:
        count = len(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        count = 2

    def changed(batch: Any, key: jax.Array) -> Any:
        found = function(batch, key) if count > 1 else function(batch)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                f"{name} must return a pair (inputs, targets), got a "
                f"{type(found).__name__}."
            )
        return found

    return changed


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
