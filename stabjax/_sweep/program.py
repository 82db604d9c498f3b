"""A chunk of trials as one program: traced, hashed, compiled."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from stabjax._sweep.axes import RESULTS
from stabjax._sweep.compiler import compiled_for, cpu_options, memory_of
from stabjax._sweep.factories import Factories
from stabjax._sweep.memory import Memory
from stabjax._sweep.settings import Settings
from stabjax._sweep.unsharded import unsharded
from stabjax._train.state import Rules, State, Training, TrainResult
from stabjax._train.trial import train, training

STATE = "state/"  # prefix of the variables that halving carries to the next rung

_Variables = dict[str, jax.Array]
# Arguments of a program: values that the trials of a chunk share, and of each trial.
Inputs = tuple[dict[str, Any], dict[str, Any]]


class Program:
    """Runs all trials with the same static values, given the numeric values.

    It can be pickled if the factories and the static values can.
    """

    def __init__(
        self,
        factories: Factories,
        statics: Mapping[str, Any],
        numbers: Mapping[str, np.dtype[Any]],
        settings: Settings,
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory or Memory(factories.functions())
        self.given = factories, statics, numbers, settings
        self._factories = unsharded(factories)
        self.settings = settings
        self._key = (
            tuple((name, type(v), v, repr(v)) for name, v in statics.items()),
            tuple((name, dtype.name) for name, dtype in numbers.items()),
            settings,
            getattr(factories.problem, "metadata", {}).get("final_loss"),
        )
        # Jitted so that it is traced once for its shapes and its program.
        self._jitted = jax.jit(self._rung if settings.rungs else self._trial)

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, self.given

    def results(self, shared: dict[str, Any], lanes: dict[str, Any]) -> TrainResult:
        """Trains a chunk and returns the full result of its first trial."""

        def lane(shared: _Variables, own: _Variables) -> TrainResult:
            return self._result({**shared, **own})

        traced = jax.jit(jax.vmap(lane, (None, 0))).trace(shared, lanes)
        (device,) = jnp.zeros(()).devices()
        found = compiled_for(traced, device)(shared, lanes)
        result: TrainResult = jax.tree.map(lambda leaf: leaf[0], found)
        return result

    def shapes(self) -> tuple[int, int, dict[str, jax.ShapeDtypeStruct]]:
        """Traces a trial, which raises its errors.

        Returns:
          The number of parameters, a bound on the bytes that a trial computes, and the
          variables of its result.
        """

        def make() -> tuple[int, int, dict[str, jax.ShapeDtypeStruct]]:
            traced = self._jitted.trace(self._values())
            params, variables = traced.out_info
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            return count, memory_of(traced.jaxpr.jaxpr), variables

        return self._memory.recall((self._key, "shapes"), make)

    def fingerprint(self, width: int, shared_seed: bool) -> str:
        """Returns the SHA-256 of the program of a chunk, including its constants."""
        traced = self._traced(width, shared_seed)
        text = f"{traced.lower().as_text()}{cpu_options(str(traced.jaxpr))}"
        return hashlib.sha256(text.encode()).hexdigest()

    def compiled(
        self, width: int, shared_seed: bool, devices: Sequence[jax.Device]
    ) -> jax.stages.Compiled:
        """Compiles a chunk for each device: a function of `Inputs` to variables.

        It is compiled once for all devices; arguments and results are the chunks
        concatenated. A trial has the same bits on any of the devices.
        """

        def make() -> jax.stages.Compiled:
            if len(devices) == 1:
                alone = jax.sharding.SingleDeviceSharding(devices[0])
                traced = self._traced(width, shared_seed, alone)
                return compiled_for(traced, devices[0])
            mesh, spec = Mesh(np.array(devices), ("chunk",)), PartitionSpec("chunk")
            chunks = jax.shard_map(
                _as_function(self._traced(width, shared_seed)),
                mesh=mesh,
                in_specs=spec,
                out_specs=spec,
                check_vma=False,
            )
            sharding, count = NamedSharding(mesh, spec), len(devices)
            arguments = self._arguments(width, shared_seed, sharding, count)
            return compiled_for(jax.jit(chunks).trace(*arguments), devices[0])

        key = (self._key, "program", width, shared_seed, *devices)
        return self._memory.recall(key, make)

    def _made(self, values: Mapping[str, Any]) -> tuple[Any, Any, jax.Array]:
        """The problem, the optimizer and the key of a trial."""
        _, statics, numbers, _ = self.given
        given = {**statics, **{name: values[name] for name in numbers}}
        return *self._factories(given), jax.random.key(values["seed"])

    def _result(self, values: Mapping[str, Any]) -> TrainResult:
        arguments = self.settings._asdict()
        for name in ("rungs", "eta", "compared_by"):  # of halving
            del arguments[name]
        return train(*self._made(values), **arguments)

    def _trial(self, values: _Variables) -> tuple[Any, _Variables]:
        result = self._result(values)
        return result.params, variables_of(result)

    def _rung(self, values: _Variables) -> tuple[Any, _Variables]:
        """Trains a trial from one rung of halving to the next."""
        first, until = values["first"], values["until"]
        start, step, result = self._training(values)
        begun = {
            name: jnp.where(first == 0, leaf, values[name])
            for name, leaf in _leaves(start).items()
        }
        state = _with_leaves(start, begun)._replace(step=first)
        state = lax.fori_loop(first, until, lambda _, s: step(s)[0], state)
        variables = variables_of(result(state, until))
        return state.params, {**variables, **_leaves(state)}

    def _training(self, values: Mapping[str, Any]) -> Training:
        rules = Rules(self.settings.divergence_factor)
        return training(*self._made(values), rules)

    def _traced(
        self, width: int, shared_seed: bool, sharding: Sharding | None = None
    ) -> jax.stages.Traced:
        def chunk(shared: _Variables, lanes: _Variables) -> Any:
            def lane(shared: _Variables, own: _Variables) -> Any:
                return self._jitted({**shared, **own})[1]

            return jax.vmap(lane, (None, 0))(shared, lanes)

        return jax.jit(chunk).trace(*self._arguments(width, shared_seed, sharding))

    def _arguments(
        self,
        width: int,
        shared_seed: bool,
        sharding: Sharding | None = None,
        devices: int | None = None,
    ) -> Inputs:
        """The shapes of the arguments of a chunk, or of one chunk for each device."""
        values = self._values()
        names = {"first", "until", *(["seed"] if shared_seed else [])} & values.keys()
        each = () if devices is None else (devices,)
        shared = {name: _like(values.pop(name), each, sharding) for name in names}
        size = (width * (devices or 1),)
        return shared, {n: _like(v, size, sharding) for n, v in values.items()}

    def _values(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of the arguments of a trial."""
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
    """The shape with more dimensions in front."""
    return jax.ShapeDtypeStruct((*sizes, *value.shape), value.dtype, sharding=sharding)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _leaves(state: State) -> _Variables:
    """The arrays of a state by name, as NumPy can hold them."""
    return {
        f"{STATE}{number}": jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for number, leaf in enumerate(map(jnp.asarray, jax.tree.leaves(state)))
    }


def _with_leaves(state: State, values: Mapping[str, jax.Array]) -> State:
    """The state that has these arrays."""
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
    """A traced chunk as a function of arrays, which avoids another trace.

    Mapped over devices, a value that a chunk shares is an array of one element.
    """
    call = jax.extend.core.jaxpr_as_fun(traced.jaxpr)
    structure = jax.tree.structure(traced.out_info)

    def chunk(shared: _Variables, lanes: _Variables) -> Any:
        arguments = {name: value[0] for name, value in shared.items()}, lanes
        return jax.tree.unflatten(structure, call(*jax.tree.leaves(arguments)))

    return chunk


def variables_of(result: TrainResult) -> _Variables:
    """Returns the entries of the dataset, by name."""
    losses: dict[str, Any] = {**result._asdict(), **result.summaries}
    found: list[tuple[str, Any]] = [(name, losses.get(name)) for name in RESULTS]
    found += result.evaluation.items()
    for name, values in result.metrics.items():
        if values.ndim != 1:  # one scalar for each recorded step
            raise ValueError(
                f"metric {name!r} must be a scalar to be recorded, got an array of "
                f"shape {values.shape[1:]}."
            )
        found.append((name.replace("/", "_"), values))
    variables: _Variables = {}
    for name, values in found:
        if name in variables:
            raise ValueError(
                f"two results are called {name!r}: rename the metric, or the entry of "
                f"problem.evaluate."
            )
        if values is not None:
            variables[name] = values
    return variables
