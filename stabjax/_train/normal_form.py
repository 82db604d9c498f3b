"""Converting the functions of a problem to a common signature."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._branches import explained_branch
from stabjax._train.convolutions import with_products
from stabjax._train.problem import Problem

_DATA = 2**31 - 2  # a large number, because users fold in small ones
_BY_NAME = {
    "loss": ("key", "state", "step", "batch"),
    "evaluate": ("key", "state", "step"),
}

Metrics = dict[str, jax.Array]


class Inputs(NamedTuple):
    """The keyword arguments for the functions of a problem at a step."""

    key: jax.Array
    step: jax.Array
    batch: Any


class NormalForm(NamedTuple):
    """The functions of a problem with a common signature.

    If the problem has no state, its state is `()`.
    """

    init: Callable[[jax.Array], tuple[Any, Any]]  # key -> params, state
    inputs: Callable[[jax.Array, jax.Array], Inputs]  # key of the run, step
    # params, state, inputs -> loss, (state, metrics)
    loss: Callable[[Any, Any, Inputs], tuple[jax.Array, tuple[Any, Metrics]]]
    evaluate: Callable[[Any, Any, Inputs], Metrics]
    final_inputs: Callable[[jax.Array, Any], Inputs]  # evaluation key, steps
    final_loss: str | None  # the entry of `evaluate` that is the final loss


def normal_form(problem: Problem, products: bool = True) -> NormalForm:
    """Checks the signatures of a problem and returns its normal form.

    `products` replaces convolutions with matrix products on CPUs.
    """
    changed = with_products if products else _unchanged
    batch = getattr(problem, "batch", None)
    evaluate = getattr(problem, "evaluate", None)
    known = set(_BY_NAME["loss"]) - (set() if batch else {"batch"})
    loss_names, loss = _by_name("loss", problem.loss, known)
    stateful = "state" in loss_names
    if batch and "batch" not in loss_names:
        raise TypeError(
            "problem.loss must have a parameter 'batch' because problem.batch is given."
        )
    measure = None
    if evaluate is not None:
        names, measure = _by_name("evaluate", evaluate, _BY_NAME["evaluate"])
        if "state" in names and not stateful:
            raise TypeError(
                "problem.loss must have a parameter 'state' because problem.evaluate "
                "has one."
            )

    def with_batch(key: jax.Array, run_key: jax.Array, step: Any) -> Inputs:
        step = jnp.asarray(step, jnp.int32)
        if not batch:
            return Inputs(key, step, ())
        with explained_branch("problem.batch"):
            return Inputs(key, step, batch(step, jax.random.fold_in(run_key, _DATA)))

    def outputs(params: Any, state: Any, inputs: Inputs) -> Any:
        with explained_branch("problem.loss"):
            found = loss(params, {**inputs._asdict(), "state": state})
        return _outputs(found, state, stateful)

    def measures(params: Any, state: Any, inputs: Inputs) -> Metrics:
        return _evaluation(measure, params, {**inputs._asdict(), "state": state})

    return NormalForm(
        lambda key: _initial(problem, key, stateful),
        lambda key, step: with_batch(jax.random.fold_in(key, step), key, step),
        # Jitted so that it is traced once, although the program calls it several times.
        # The function is new in each call because JAX caches traces by function
        # identity and would miss a change in the closure of problem.loss.
        jax.jit(changed(outputs)),
        changed(measures),
        lambda key, steps: with_batch(key, key, steps),
        getattr(problem, "metadata", {}).get("final_loss"),
    )


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _by_name(
    role: str, function: Callable[..., Any], known: Collection[str]
) -> tuple[tuple[str, ...], Callable[[Any, Mapping[str, Any]], Any]]:
    """Returns the argument names of a function and a wrapper that takes a dict."""
    names, is_pair = _parameters(role, function, known)

    def call(params: Any, values: Mapping[str, Any]) -> Any:
        key = (values["key"],) if is_pair else ()
        return function(params, *key, **{name: values[name] for name in names})

    return names, call


def _parameters(
    role: str, function: Callable[..., Any], known: Collection[str]
) -> tuple[tuple[str, ...], bool]:
    """Returns the argument names of a function and whether it takes (params, key).

    If there are two parameters and the second has an unknown name, it is the key.
    """
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):  # not a Python function
        return (), True
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return (), True
    parameters = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    if not parameters or parameters[0].name in ("key", "state", "step", "batch"):
        first = parameters[0].name if parameters else "no parameter"
        raise TypeError(
            f"problem.{role} must take the model parameters as its first argument, "
            f"got {first}."
        )
    rest = parameters[1:]
    names = tuple(
        p.name for p in rest if p.name in known and p.kind is not p.POSITIONAL_ONLY
    )
    others = [p.name for p in rest if p.name not in names and p.default is p.empty]
    if not others:
        return names, False
    is_positional = rest[0].kind is not rest[0].KEYWORD_ONLY
    alone = not names and others == [rest[0].name] and is_positional
    if alone and others[0] not in _BY_NAME["loss"]:
        return (), True
    hint = ""
    if "batch" in others:
        hint = " Pass Problem(..., batch=...): a function of a step and a key."
    raise TypeError(
        f"problem.{role} must name its parameters after the first from "
        f"{', '.join(_BY_NAME[role])}, got {', '.join(map(repr, others))}.{hint}"
    )


def _initial(problem: Problem, key: jax.Array, stateful: bool) -> tuple[Any, Any]:
    """Returns the initial parameters and the initial state as arrays."""
    with explained_branch("problem.init"):
        found: Any = problem.init(key)
    if not stateful:
        return _as_params(found, _STATE_HINT if _is_pair(found) else ""), ()
    if not _is_pair(found):
        raise TypeError(
            f"problem.init must return (params, state) because problem.loss has a "
            f"parameter 'state', got {_kind(found)}."
        )
    params, state = found
    return _as_params(params, ""), _as_state(state)


_STATE_HINT = (
    " If it returns (params, state), problem.loss must have a parameter 'state'."
)


def _is_pair(found: Any) -> bool:
    return type(found) is tuple and len(found) == 2  # not a NamedTuple of two


def _kind(found: Any) -> str:
    if isinstance(found, tuple):
        return f"a tuple of {len(found)}"
    return "an array" if hasattr(found, "shape") else f"a {type(found).__name__}"


def _is_scalars(found: Any) -> bool:
    """Returns whether this is a dict of numbers."""
    if not isinstance(found, Mapping):
        return False
    leaves = jax.tree.leaves(dict(found))
    numbers = all(np.ndim(x) == 0 and not isinstance(_dtype(x), str) for x in leaves)
    return numbers and len(leaves) == len(found)


def _shapes(found: Any) -> str:
    """Returns the shapes of arrays, and the names of anything else, for a message."""

    def shown(leaf: Any) -> Any:
        dtype = _dtype(leaf)
        return dtype if isinstance(dtype, str) else np.shape(leaf)

    return repr(jax.tree.map(shown, found))


def _as_params(params: Any, hint: str) -> Any:
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = _dtype(leaf)
        if isinstance(dtype, str) or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"problem.init must return floating-point arrays, got {dtype} "
                f"at params{jax.tree_util.keystr(path)}.{hint}"
            )
    return jax.tree.map(jnp.asarray, params)


def _as_state(state: Any) -> Any:
    """Converts the state to arrays without weak types, which a step would change."""
    for path, leaf in jax.tree.leaves_with_path(state):
        if isinstance(dtype := _dtype(leaf), str):
            raise TypeError(
                f"problem.init must return a state of arrays, got {dtype} at "
                f"state{jax.tree_util.keystr(path)}."
            )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, _dtype(leaf)), state)


def _dtype(leaf: Any) -> Any:
    """Returns the dtype of an array, or the name of any other value."""
    try:
        return jnp.asarray(leaf).dtype
    except TypeError:  # a function, such as the activation in an Equinox module
        return getattr(leaf, "__name__", type(leaf).__name__)


def _outputs(
    found: Any, state: Any, stateful: bool
) -> tuple[jax.Array, tuple[Any, Metrics]]:
    """Splits the result of a loss into the loss, the new state and the metrics."""
    metrics: Any = {}
    if stateful:
        if type(found) is not tuple or len(found) not in (2, 3):
            raise TypeError(
                f"problem.loss must return (loss, state) or (loss, state, metrics) "
                f"because it has a parameter 'state', got {_kind(found)}."
            )
        value, new, *more = found
        metrics = more[0] if more else {}
        new = _like(state, new)
    else:
        value, new = found, ()
        if _is_pair(found) and isinstance(found[1], Mapping):
            value, metrics = found
    if not _is_scalars(metrics):
        raise TypeError(
            f"problem.loss must return a dict of scalars as metrics, got "
            f"{_shapes(metrics)}."
        )
    return value, (new, {name: jnp.asarray(value) for name, value in metrics.items()})


def _like(state: Any, new: Any) -> Any:
    """Checks that the new state has the same structure and shapes as the old one."""
    old, structure = jax.tree.flatten_with_path(state)
    found: Any = jax.tree.structure(new)
    if found != structure:
        paths = {jax.tree_util.keystr(path) for path, _ in old}
        others = {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(new)}
        shown = ", ".join(f"state{path}" for path in sorted(paths ^ others)[:3])
        raise TypeError(
            f"problem.loss must return a state with the same structure as the state "
            f"returned by problem.init, got a difference at "
            f"{shown or 'its containers'}."
        )
    for (path, leaf), value in zip(old, jax.tree.leaves(new), strict=True):
        if np.shape(value) != leaf.shape or _dtype(value) != leaf.dtype:
            raise TypeError(
                f"problem.loss must return a state with the same shapes and dtypes as "
                f"the initial state, got {_dtype(value)}{[*np.shape(value)]} at "
                f"state{jax.tree_util.keystr(path)}, which is initially "
                f"{leaf.dtype}{[*leaf.shape]}."
            )
    return jax.tree.map(lambda leaf, x: jnp.asarray(x, leaf.dtype), state, new)


def _evaluation(
    measure: Callable[[Any, Mapping[str, Any]], Any] | None,
    params: Any,
    values: Mapping[str, Any],
) -> Metrics:
    if measure is None:
        return {}
    with explained_branch("problem.evaluate"):
        found = measure(params, values)
    if not _is_scalars(found):
        raise TypeError(
            f"problem.evaluate must return a dict of scalars, got {_shapes(found)}."
        )
    arrays = {name: jnp.asarray(value) for name, value in found.items()}
    return {name: value.astype(wide(value.dtype)) for name, value in arrays.items()}


def wide(dtype: Any) -> np.dtype[Any]:
    """Returns the dtype itself if it is float32 or wider, and float32 otherwise."""
    is_wide = jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize >= 4
    found: np.dtype[Any] = np.dtype(dtype if is_wide else np.float32)
    return found
