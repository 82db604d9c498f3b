"""Supervised problems for modules of any library."""

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
Apply = Callable[[optax.Params, jax.Array], object]
Measure = Callable[..., jax.Array]
Change = Callable[..., object]  # a function of a batch and optionally a key


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
    """Supervised learning with a module of Flax NNX, Linen, Equinox or plain JAX.

        L(theta) = 1/B sum_b loss(f_theta(x_b), y_b)

    The loss is averaged over a minibatch of `B` examples, or over all examples if
    `batch_size` is None. The minibatches of an epoch are slices of a permutation of the
    examples, and the last incomplete minibatch is dropped. Each epoch has a new
    permutation. Runs with the same seed have the same permutations.
    `metadata["steps_per_epoch"]` is the number of minibatches in an epoch.

    Batch statistics and other variables of the module become the state of the problem.
    Dropout and other random layers use the key of the step. The loss runs the module in
    training mode and `evaluate` in evaluation mode. To switch modes, `supervised` uses
    `train()` and `eval()` for NNX and `eqx.nn.inference_mode` for Equinox. Modules of
    any library can instead have a call parameter named `train`, `training`,
    `is_training`, `deterministic` or `use_running_average`.

    `evaluate` computes means over all examples, in batches to limit memory use. It
    returns `train_loss` and, if there are test data, `test_loss`, and the corresponding
    values of each metric. The final loss of a run is `test_loss`, or `train_loss` if
    there are no test data.

    Args:
      module: one of the following. Except for Equinox modules, modules are called with
        a batch of inputs.

        - a function or class that takes an `nnx.Rngs` and returns an NNX module, such
          as `lambda rngs: nnx.Linear(64, 10, rngs=rngs)`
        - a Linen module, such as `linen.Dense(10)`
        - a function of `key` that returns an Equinox module, such as
          `lambda key: eqx.nn.MLP(64, 10, 32, 1, key=key)`, or the function returned by
          `eqx.nn.make_with_state`. The module is called with a single example, inside a
          `jax.vmap` with the axis name `"batch"`
        - a pair of functions `(init, apply)`. `init(key)` returns the parameters and
          `apply(params, inputs)` returns the outputs. `apply` can also have parameters
          `key`, `train` and `state`. With `state`, they return `(params, state)` and
          `(outputs, state)`

      inputs: array of examples along the leading axis, or a dict or tuple of arrays.
        **Traceable.**
      targets: array, dict or tuple with the same leading axis. **Traceable.**
      loss: a function of outputs and targets, such as
        `optax.softmax_cross_entropy_with_integer_labels`. Its result can have any shape
        and is averaged.
      batch_size: number of examples per step, in [1, number of examples]. If None, all
        examples are used. **Static.**
      test: a pair of held-out inputs and targets for `evaluate`.
      metrics: a dict of functions with the same signature as `loss`. Used only by
        `evaluate`.
      preprocess: a function of a batch `(inputs, targets)` and optionally a key that
        returns the batch for the module and the loss. Used in training and evaluation.
      augment: a function like `preprocess` that is called before it, only in training.
      replace: if True, samples minibatches with replacement.
      metadata: entries to add to the metadata of the problem, such as `"name"`.

    Returns:
      A `Problem` with the parameters of the module. For Linen, they are the `"params"`
      collection. For NNX, they are a state that can be passed to
      `nnx.update(model, params)`. For Equinox, they are the module with None in place
      of everything that is not a floating-point array.

    Raises:
      TypeError: If `module` is none of the above, the data are not arrays, a function
        is not callable, `test` is not a pair, or `metrics` is not a dict.
      ValueError: If the lengths differ, `batch_size` is out of range, a metric has the
        name `"loss"`, or the module has no evaluation mode. When the problem is used:
        if the loss or a metric broadcasts targets across examples, as differences of
        outputs of shape (B, 1) and targets of shape (B,) do.

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
            raise TypeError(
                f"test must be a pair (inputs, targets), got a {type(test).__name__}."
            )
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
        example: Any = preprocess(changed, jax.random.fold_in(key, 1))
        inputs, targets = example
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
    """Returns functions that sample minibatches at random or in epochs."""

    def drawn(key: jax.Array) -> Any:
        if batch_size is None:
            return jax.tree.map(jnp.asarray, (*examples,))
        # `jax.random.bits` compiles three times as fast as `jax.random.randint`. The
        # bias of the modulo is smaller than size / 2^32.
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
            example: Any = preprocess((inputs, targets), key)
            outputs, _ = model.apply(params, state, example[0], None, False)
            return {n: jnp.mean(f(outputs, example[1])) for n, f in measures.items()}

        return {
            f"{name}_{measured}": value
            for name, examples in sets.items()
            for measured, value in mean_over(examples, at_once, of).items()
        }

    return evaluate


def _first(examples: Dataset) -> Any:
    """Returns the first example as a batch."""
    return jax.tree.map(lambda a: jnp.asarray(a[:1]), (*examples,))


def _change(name: str, function: Change | None) -> Change:
    """Wraps a function of a batch, so that it accepts a key."""
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
    return {name: _without_broadcasts(name, f) for name, f in measures.items()}


def _without_broadcasts(name: str, measure: Measure) -> Measure:
    """Wraps a measure, so that it raises an error if it broadcasts across examples."""

    def checked(outputs: Any, targets: Any) -> Any:
        if _broadcasts(measure, outputs, targets):
            index = "None" if targets.ndim < outputs.ndim else "0"
            raise ValueError(
                f"{name} must compare each output with its own target, got outputs of "
                f"shape {outputs.shape} and targets of shape {targets.shape}, which "
                f"broadcast. Pass targets[:, {index}]."
            )
        return measure(outputs, targets)

    return checked


def _broadcasts(measure: Measure, outputs: Any, targets: Any) -> bool:
    """Returns whether a measure broadcasts the targets across examples.

    It then accepts five outputs and three targets. A measure that accepts any targets
    does not compare them with the outputs.
    """
    if not hasattr(outputs, "shape") or not hasattr(targets, "shape"):
        return False
    own, other = outputs.shape[1:], targets.shape[1:]
    if own == other:
        return False

    def accepts(shape: tuple[int, ...]) -> bool:
        examples = jax.ShapeDtypeStruct((5, *own), outputs.dtype)
        try:
            jax.eval_shape(
                measure, examples, jax.ShapeDtypeStruct(shape, targets.dtype)
            )
        except Exception:  # of any kind, as the function is the user's
            return False
        return True

    return accepts((3, *other)) and not accepts((3, 7, 11))


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
