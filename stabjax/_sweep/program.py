"""Tracing, hashing and compiling the program for a chunk of trials."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from stabjax._sweep.axes import RESULTS
from stabjax._sweep.chunk_width import memory_of
from stabjax._sweep.compiler import compiled_for, cpu_options, no_collection
from stabjax._sweep.factories import Factories
from stabjax._sweep.lanes import (
    LARGEST,
    Inexpressible,
    chunk_of,
    run_of,
    trained,
    unfused,
)
from stabjax._sweep.layouts import over_trials
from stabjax._sweep.program_cache import Memory
from stabjax._sweep.settings import Settings
from stabjax._sweep.unsharded import unsharded
from stabjax._train.state import Rules, State, Training, TrainResult
from stabjax._train.summaries import summaries_of
from stabjax._train.trial import train, training

STATE = "state/"  # prefix of the state variables that halving passes to the next rung

CURVE = "_curve"  # suffix of the variables along `evaluated_at`

_Variables = dict[str, jax.Array]
# Program arguments: values shared by all trials of a chunk, and values per trial.
Inputs = tuple[dict[str, Any], dict[str, Any]]


class Program:
    """A program for all trials with the same static values.

    It can be pickled if the factories and the static values can be pickled.
    """

    def __init__(
        self,
        factories: Factories,
        statics: Mapping[str, Any],
        numbers: Mapping[str, np.dtype[Any]],
        settings: Settings,
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory or Memory([*factories.functions(), *settings.functions()])
        self.given = factories, statics, numbers, settings
        self._factories = unsharded(factories)
        self.settings = settings
        self._key = (
            tuple((name, type(v), v, repr(v)) for name, v in statics.items()),
            tuple((name, dtype.name) for name, dtype in numbers.items()),
            tuple(settings.as_data().items()),  # functions would never be freed
            getattr(factories.problem, "metadata", {}).get("final_loss"),
        )
        self._parts: Any = None  # of a trial, after it was traced
        self._maximize: tuple[str, ...] = ()
        # Jitted so that all methods share one trace.
        self._jitted = jax.jit(self._rung if settings.rungs else self._trial)
        self._vmapped = [jax.jit(partial(self._by_vmap, cpu)) for cpu in (False, True)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, self.given

    def results(self, shared: dict[str, Any], lanes: dict[str, Any]) -> TrainResult:
        """Trains a chunk and returns the complete result of its first trial."""

        (device,) = jnp.zeros(()).devices()
        chunk = over_trials(jax.jit(self._result), device.platform == "cpu")
        traced = jax.jit(chunk).trace(shared, lanes)
        found = compiled_for(traced, device)(shared, lanes)
        result: TrainResult = jax.tree.map(lambda leaf: leaf[0], found)
        return result

    def shapes(self) -> tuple[int, int, dict[str, jax.ShapeDtypeStruct]]:
        """Traces a trial, which raises any errors in the user's functions.

        Returns:
          The number of parameters, an upper bound on the memory of a trial, and the
          shapes of its result variables.
        """

        return self._memory.recall((self._key, "shapes"), self._shapes)[:3]

    def maximize(self) -> tuple[str, ...]:
        """Returns the variables that the problem maximizes."""
        found: tuple[str, ...]
        found = self._memory.recall((self._key, "shapes"), self._shapes)[4]
        return found

    @no_collection()
    def _shapes(self) -> tuple[Any, ...]:
        """Returns `shapes`, the trial in parts if it is small, and `maximize`."""
        values = self._values()
        traced = self._jitted.trace(values)
        params, variables, *_ = traced.out_info
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        run = None
        if self._parts and count <= LARGEST:
            with contextlib.suppress(Inexpressible):
                run = run_of(values, traced, self._parts)
        memory = memory_of(traced.jaxpr.jaxpr)
        return count, memory, variables, run, self._maximize

    def engine(self, width: int, shared_seed: bool, device: jax.Device) -> str:
        """Returns the engine, `"lanes"` if possible and `"vmap"` otherwise."""
        chunk = self._lanes(shared_seed, device.platform)
        try:
            if chunk:
                self._traced(chunk, width, shared_seed)
            return "lanes" if chunk else "vmap"
        except Inexpressible:
            return "vmap"

    @no_collection()
    def fingerprint(self, width: int, shared_seed: bool, engine: str) -> str:
        """Returns the SHA-256 hash of a chunk's program, including constants."""
        (device,) = jnp.zeros(()).devices()
        chunk = self._chunk(shared_seed, engine, device)
        traced = self._traced(chunk, width, shared_seed)
        text = f"{traced.lower().as_text()}{cpu_options(traced.jaxpr)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def compiled(
        self,
        width: int,
        shared_seed: bool,
        engine: str,
        devices: Sequence[jax.Device],
    ) -> jax.stages.Compiled:
        """Compiles a function from `Inputs` to result variables.

        If there are several devices, the function takes the concatenated inputs of one
        chunk per device and returns the concatenated results. The results of a trial
        are bitwise identical on all devices.
        """

        def make() -> jax.stages.Compiled:
            chunk = self._chunk(shared_seed, engine, devices[0])
            try:
                return self._compiled(chunk, width, shared_seed, devices)
            except jax.errors.JaxRuntimeError:
                if engine != "lanes":
                    raise
            with unfused():
                new = jax.jit(partial(chunk.__wrapped__))  # is traced again
                return self._compiled(new, width, shared_seed, devices)

        key = (self._key, "program", width, shared_seed, engine, *devices)
        return self._memory.recall(key, make)

    def _compiled(
        self,
        chunk: Any,
        width: int,
        shared_seed: bool,
        devices: Sequence[jax.Device],
    ) -> jax.stages.Compiled:
        if len(devices) == 1:
            alone = jax.sharding.SingleDeviceSharding(devices[0])
            traced = self._traced(chunk, width, shared_seed, alone)
            return compiled_for(traced, devices[0])
        mesh, spec = Mesh(np.array(devices), ("chunk",)), PartitionSpec("chunk")
        chunks = jax.shard_map(
            _as_function(self._traced(chunk, width, shared_seed)),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
            check_vma=False,
        )
        sharding, count = NamedSharding(mesh, spec), len(devices)
        traced = self._traced(jax.jit(chunks), width, shared_seed, sharding, count)
        return compiled_for(traced, devices[0])

    def _made(self, values: Mapping[str, Any]) -> tuple[Any, Any, jax.Array]:
        """Creates the problem, the optimizer and the key of a trial."""
        _, statics, numbers, _ = self.given
        given = {**statics, **{name: values[name] for name in numbers}}
        problem, optimizer = self._factories(given)
        declared = getattr(problem, "metadata", {}).get("maximize", ())
        self._maximize = (declared,) if isinstance(declared, str) else tuple(declared)
        return problem, optimizer, jax.random.key(values["seed"])

    def _result(self, values: Mapping[str, Any]) -> TrainResult:
        arguments = self.settings._asdict()
        for name in ("rungs", "eta", "compared_by", "when"):  # not of `train`
            del arguments[name]
        arguments["stop"] = self.settings.rule()
        return train(*self._made(values), **arguments)

    def loop(self) -> tuple[Callable[..., Any], ...]:
        """Returns jitted functions of a trial's values for a loop over steps.

        They return the initial state, the next state and an evaluation. Convolutions
        are XLA's, as in a training script.
        """

        def parts(values: _Variables) -> Training:
            return self._training(values, products=False)

        return (
            jax.jit(lambda values: parts(values).start),
            jax.jit(lambda values, state: parts(values).step(state)[0]),
            jax.jit(lambda values, state: parts(values).evaluate(state)),
        )

    def _trial(self, values: _Variables) -> tuple[Any, ...]:
        if self.settings.record_every or self.settings.evaluate_every:
            result = self._result(values)
            watched = self.settings.stop[0] if self.settings.stop else None
            return result.params, variables_of(result, watched)
        parts = self._training(values)
        found, begun, self._parts = trained(parts, variables_of, self.settings.steps)
        return parts.start.params, found, begun

    def _rung(self, values: _Variables) -> tuple[Any, _Variables]:
        """Trains a trial from one halving rung to the next."""
        first, until = values["first"], values["until"]
        start, step, result, _ = self._training(values)
        begun = {
            name: jnp.where(first == 0, leaf, values[name])
            for name, leaf in _leaves(start).items()
        }
        state = _with_leaves(start, begun)._replace(step=first)
        state = lax.fori_loop(first, until, lambda _, s: step(s)[0], state)
        variables = variables_of(result(state, until))
        return state.params, {**variables, **_leaves(state)}

    def _training(self, values: Mapping[str, Any], products: bool = True) -> Training:
        given = self.settings
        watched = summaries_of(given.summaries, given.target_loss, given.steps)
        rules = Rules(given.divergence_factor, watched, given.evaluations)
        return training(*self._made(values), rules, products)

    def _by_vmap(self, on_cpu: bool, shared: _Variables, lanes: _Variables) -> Any:
        """Trains a chunk."""
        trial = over_trials(lambda values: self._jitted(values)[1], on_cpu)
        return trial(shared, lanes)

    def _chunk(self, shared_seed: bool, engine: str, device: jax.Device) -> Any:
        """Returns a jitted function that trains a chunk."""
        if engine == "vmap":
            return self._vmapped[device.platform == "cpu"]
        found = self._lanes(shared_seed, device.platform)
        if found is None:
            raise RuntimeError(f"Cannot run these trials with engine {engine!r}.")
        return found

    def _lanes(self, shared_seed: bool, platform: str) -> Any:
        """Returns a jitted function that trains a chunk in lanes, or None."""
        given = self.settings
        run = self._memory.recall((self._key, "shapes"), self._shapes)[3]
        if run is None:
            return None
        own = self._arguments(1, shared_seed)[1]

        @no_collection()
        def make() -> list[Any]:
            try:
                return [jax.jit(chunk_of(run, own, given.steps, platform))]
            except Inexpressible:
                return [None]

        key = (self._key, "lanes", shared_seed, platform)
        return self._memory.recall(key, make)[0]

    @no_collection()
    def _traced(self, chunk: Any, *size: Any) -> jax.stages.Traced:
        """Traces a jitted chunk for `_arguments(*size)`, once for each width."""
        traced: jax.stages.Traced = chunk.trace(*self._arguments(*size))
        return traced

    def _arguments(
        self,
        width: int,
        shared_seed: bool,
        sharding: Sharding | None = None,
        devices: int | None = None,
    ) -> Inputs:
        """Returns the argument shapes for a chunk, or for one chunk per device."""
        values = self._values()
        names = {"first", "until", *(["seed"] if shared_seed else [])} & values.keys()
        each = () if devices is None else (devices,)
        shared = {name: _like(values.pop(name), each, sharding) for name in names}
        size = (width * (devices or 1),)
        return shared, {n: _like(v, size, sharding) for n, v in values.items()}

    def _values(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the argument shapes for a trial."""
        _, _, numbers, settings = self.given
        values = {n: jax.ShapeDtypeStruct((), dtype) for n, dtype in numbers.items()}
        values["seed"] = jax.ShapeDtypeStruct((), np.int32)
        if settings.rungs:
            state = jax.eval_shape(lambda v: _leaves(self._training(v).start), values)
            values |= {name: _like(leaf, ()) for name, leaf in state.items()}
            values["first"] = values["until"] = values["seed"]
        return values


def _like(
    value: jax.ShapeDtypeStruct,
    sizes: tuple[int, ...],
    sharding: Sharding | None = None,
) -> jax.ShapeDtypeStruct:
    """Returns a copy of a shape with leading dimensions added."""
    return jax.ShapeDtypeStruct((*sizes, *value.shape), value.dtype, sharding=sharding)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _leaves(state: State) -> _Variables:
    """Returns the arrays of a state by name, with random keys as raw integers."""
    return {
        f"{STATE}{number}": jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for number, leaf in enumerate(map(jnp.asarray, jax.tree.leaves(state)))
    }


def _with_leaves(state: State, values: Mapping[str, jax.Array]) -> State:
    """Returns a copy of a state with the given arrays."""
    leaves, structure = jax.tree.flatten(state)
    found = [values[f"{STATE}{number}"] for number in range(len(leaves))]
    typed = [
        jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf))
        if _is_key(jnp.asarray(leaf))
        else value
        for leaf, value in zip(leaves, found, strict=True)
    ]
    new: State = jax.tree.unflatten(structure, typed)
    return new


def _as_function(traced: jax.stages.Traced) -> Callable[..., Any]:
    """Converts a traced chunk to a function of arrays, which avoids another trace.

    `shard_map` passes each shared value as an array with a single element.
    """
    call = jax.extend.core.jaxpr_as_fun(traced.jaxpr)
    structure = jax.tree.structure(traced.out_info)

    def chunk(shared: _Variables, lanes: _Variables) -> Any:
        arguments = {name: value[0] for name, value in shared.items()}, lanes
        return jax.tree.unflatten(structure, call(*jax.tree.leaves(arguments)))

    return chunk


def variables_of(result: TrainResult, watched: str | None = None) -> _Variables:
    """Returns the dataset variables of a result, keyed by name.

    `watched` is the variable monitored for early stopping.
    """
    losses: dict[str, Any] = {**result._asdict(), **result.summaries}
    if result.best:
        losses["best_at"] = result.best.at
    found: list[tuple[str, Any]] = [(name, losses.get(name)) for name in RESULTS]
    found += result.evaluation.items()
    found += [(f"{name}{CURVE}", values) for name, values in result.curves.items()]
    if result.best and watched:
        found.append((f"best_{watched}", result.best.value))
    for name, values in result.metrics.items():
        if values.ndim != 1:  # a scalar at each recorded step
            raise ValueError(
                f"metric {name!r} must be a scalar to be recorded, got an array of "
                f"shape {values.shape[1:]}."
            )
        found.append((name.replace("/", "_"), values))
    variables: _Variables = {}
    for name, values in found:
        if name in variables:
            raise ValueError(
                f"two results have the name {name!r}. Rename the metric or the entry "
                f"of problem.evaluate."
            )
        if values is not None:
            variables[name] = values
    return variables
