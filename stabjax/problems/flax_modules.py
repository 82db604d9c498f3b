"""Converting Flax modules (NNX and Linen) to pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.errors import InvalidRngError, ModifyScopeVariableError

from stabjax.problems.model import Model, mode_of

_KINDS = (nnx.Param, nnx.RngState, nnx.Intermediate)


def linen_model(module: linen.Module, inputs: Any) -> Model:
    """Returns the model of a Linen module, with all other collections as state."""
    modes: dict[bool, dict[str, Any]] = {
        train: mode_of(module, train) for train in (True, False)
    }

    # Typed as Any because the stubs of Linen do not accept module arguments.
    start: Any = module.init
    applied: Any = module.apply

    def variables(key: jax.Array) -> Mapping[str, Any]:
        example = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), inputs)
        # Linen uses this key for all random streams without a separate key.
        made: Mapping[str, Any] = start(key, example, **modes[True])
        return made

    collections = set(jax.eval_shape(variables, jax.random.key(0))) - {"params"}
    names = sorted(collections)

    def init(key: jax.Array) -> tuple[Any, Any]:
        found = variables(key)
        state = {name: found[name] for name in names}
        return found.get("params", {}), state if names else ()

    def apply(
        params: Any, state: Any, x: Any, key: jax.Array | None, train: bool
    ) -> tuple[Any, Any]:
        given = {"params": params, **(state or {})}
        if not train:
            return applied(given, x, **modes[False]), state
        rngs = {"params": jax.random.fold_in(key, 0)} if key is not None else {}
        if not names:
            return applied(given, x, rngs=rngs, **modes[True]), ()
        outputs, new = applied(given, x, rngs=rngs, mutable=names, **modes[True])
        return outputs, {name: new[name] for name in names}

    params, state = jax.eval_shape(init, jax.random.key(0))
    try:
        jax.eval_shape(
            lambda p, s, x: apply(p, s, x, None, False), params, state, inputs
        )
    except (InvalidRngError, ModifyScopeVariableError) as error:
        what = "random numbers" if isinstance(error, InvalidRngError) else "state"
        raise ValueError(
            f"module must have a parameter such as train or deterministic in its "
            f"__call__ to disable its {what} during evaluation, got "
            f"{type(module).__name__} without one."
        ) from error
    return Model(init, apply, bool(names))


def nnx_model(make: Callable[[nnx.Rngs], Any], inputs: Any = None) -> Model:
    """Returns the model of an NNX module.

    The state consists of all variables except parameters, random streams and
    intermediates. At every step, the streams get new keys derived from the step key.
    """
    del inputs
    # eval_shape avoids computing anything and keeps outer tracers out of the module.
    shape = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    if not isinstance(shape, nnx.Module):
        raise TypeError(
            f"module must return an NNX module, got {type(shape).__name__}. A function "
            f"that returns an Equinox module must have a parameter 'key'."
        )
    # In Flax 0.12.1, eval_shape turns plain arrays into ShapeDtypeStructs.
    arrays = jax.Array | jax.ShapeDtypeStruct
    if any(isinstance(part, arrays) for _, part in nnx.iter_graph(shape)):
        # An array that is not a variable is a constant, so its value is needed.
        with jax.ensure_compile_time_eval():
            shape = make(nnx.Rngs(0))
    modes = {train: mode_of(shape, train) for train in (True, False)}
    definitions = {}
    for train, switch in ((False, shape.eval), (True, shape.train)):
        switch()
        definitions[train], _, streams, _, constants, rest = _split(shape)
    names = bool(jax.tree.leaves(rest))

    def init(key: jax.Array) -> tuple[Any, Any]:
        parts = _split(make(nnx.Rngs(key)))
        return parts[1], parts[-1] if names else ()

    def apply(
        params: Any, state: Any, x: Any, key: jax.Array | None, train: bool
    ) -> tuple[Any, Any]:
        seeded = _seeded(streams, jax.random.key(0) if key is None else key)
        # Copies the variables, because NNX allows updates only in the trace that
        # created a variable.
        others = [jax.tree.map(jnp.asarray, state)] if names else []
        model = nnx.merge(definitions[train], params, seeded, constants, *others)
        outputs = model(x, **modes[train])
        return outputs, (_split(model)[-1] if names and train else state)

    return Model(init, apply, names)


def _split(model: Any) -> tuple[Any, ...]:
    """Splits a model into its definition and five kinds of variables."""

    def is_constant(path: object, value: object) -> bool:
        del path
        return not isinstance(value, nnx.Variable)

    found: tuple[Any, ...] = nnx.split(model, *_KINDS, is_constant, ...)
    return found


def _seeded(streams: Any, key: jax.Array) -> Any:
    """Returns random streams with keys derived from a key and counts of zero."""
    leaves, structure = jax.tree.flatten(streams)
    new = []
    for number, leaf in enumerate(leaves):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            new.append(jnp.zeros(leaf.shape, leaf.dtype))
            continue
        own = jax.random.fold_in(key, number)
        new.append(jax.random.split(own, leaf.shape) if leaf.shape else own)
    return jax.tree.unflatten(structure, new)


def from_nnx(make: Callable[[nnx.Rngs], Any]) -> tuple[Any, Any]:
    """Returns the init function and the apply function of a stateless module."""
    model = nnx_model(make)

    def apply(params: Any, x: jax.Array) -> Any:
        return model.apply(params, (), x, None, True)[0]

    return lambda key: model.init(key)[0], apply
