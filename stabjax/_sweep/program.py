"""One compiled program for a chunk of trials, remembered while its functions live."""

import hashlib
import weakref
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.extend.core
import numpy as np
from jax.sharding import SingleDeviceSharding

from stabjax._sweep.axes import RESULTS
from stabjax._sweep.chunks import Group
from stabjax._sweep.factories import Factories, Factory
from stabjax._train.arguments import (
    check_divergence_factor,
    check_evaluations,
    check_lengths,
    check_summaries,
)
from stabjax._train.problem import Problem
from stabjax._train.trial import TrainResult, train

# Arrays of a parameter's size that a step keeps warm, and the memory they may take:
# on CPU a share of a core's second-level cache (measured: 4096 trials of 2 parameters,
# 1024 of 10, 128 of 100, 32 of 2410), elsewhere a guess at what fills the device.
_ARRAYS_PER_PARAMETER = 5
_CPU_BYTES, _DEVICE_BYTES = 2**18, 2**26
_CPU_WIDTHS, _DEVICE_WIDTHS = (32, 4096), (1024, 65536)

# The settings of JAX that change a program.
_CONFIG = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_threefry_partitionable",
)

_T = TypeVar("_T")

_remembered: dict[Hashable, Any] = {}


class Settings(NamedTuple):
    """What all trials of a sweep have in common."""

    steps: int
    record_every: int | None
    divergence_factor: float
    summaries: tuple[str, ...] = ()
    target_loss: float | None = None
    evaluations: int = 1


def settings_of(
    steps: int,
    record_every: int | None,
    divergence_factor: float,
    summaries: Collection[str],
    target_loss: float | None,
    evaluations: int,
) -> Settings:
    """Checks what all trials have in common, and makes plain numbers of it."""
    check_lengths(steps, record_every)
    check_divergence_factor(divergence_factor)
    check_summaries(summaries, target_loss)
    check_evaluations(evaluations)
    return Settings(
        int(steps),
        None if record_every is None else int(record_every),
        float(divergence_factor),
        tuple(summaries),
        None if target_loss is None else float(target_loss),
        int(evaluations),
    )


class Shapes(NamedTuple):
    """What a trial gives, known before it is compiled."""

    parameters: int  # the number of them
    memory: int  # bytes of all that a step and the evaluation compute: a bound
    variables: dict[str, jax.ShapeDtypeStruct]


class Trials:
    """The trials that share their static values, as a function of the numbers."""

    def __init__(
        self,
        factories: Factories,
        statics: Mapping[str, Any],
        numbers: Mapping[str, np.dtype[Any]],
        settings: Settings,
    ) -> None:
        self._numbers = numbers
        self._owners = _owners(factories)
        self._key = (
            tuple((name, type(v), v, repr(v)) for name, v in statics.items()),
            tuple((name, dtype.name) for name, dtype in numbers.items()),
            settings,
        )
        # Jitted so that it is traced once, for its shapes and for its program.
        self._one = jax.jit(partial(_trial, factories, statics, settings))

    def shapes(self) -> Shapes:
        """Traces a trial, which finds what is wrong with it."""

        def make() -> Shapes:
            traced = self._one.trace(*self._arguments(None, None))
            params, variables = traced.out_info
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            return Shapes(count, _memory(traced.jaxpr.jaxpr), variables)

        return _remember(self._owners, ("shapes", self._key), make)

    def fingerprint(self, width: int, shared_seed: bool) -> str:
        """The SHA-256 of the program of a chunk, with all that its functions hold.

        Not remembered: what a function closes over may have changed since.
        """
        traced = self._traced(width, shared_seed)
        text = f"{traced.lower().as_text()}{_cpu_options(str(traced.jaxpr))}"
        return hashlib.sha256(text.encode()).hexdigest()

    def compiled(
        self, group: Group, devices: Sequence[jax.Device]
    ) -> jax.stages.Compiled:
        """The program of a chunk for each device: seeds, numbers -> variables.

        It is compiled once for all devices; arguments and results hold the chunks one
        behind the other. A trial comes out the same to the last bit on any of them.
        """
        width, shared_seed = group.width, group.shared_seed

        def make() -> jax.stages.Compiled:
            if len(devices) == 1:
                sharding = SingleDeviceSharding(devices[0])
                return compiled_for(
                    self._traced(width, shared_seed, sharding), devices[0]
                )
            mesh = jax.sharding.Mesh(np.array(devices), ("chunk",))
            spec = jax.sharding.PartitionSpec("chunk")
            chunks = jax.shard_map(
                _as_function(self._traced(width, shared_seed), shared_seed),
                mesh=mesh,
                in_specs=spec,
                out_specs=spec,
                check_vma=False,
            )
            arguments = self._arguments(
                len(devices) * (1 if shared_seed else width),
                len(devices) * width,
                jax.sharding.NamedSharding(mesh, spec),
            )
            return compiled_for(jax.jit(chunks).trace(*arguments), devices[0])

        key = ("program", self._key, width, shared_seed, group.program, *devices)
        return _remember(self._owners, key, make)

    def _traced(
        self,
        width: int,
        shared_seed: bool,
        sharding: jax.sharding.Sharding | None = None,
    ) -> jax.stages.Traced:
        """A chunk of trials: numbers of each, and seeds of each or one for all."""

        def chunk(seed: jax.Array, numbers: dict[str, jax.Array]) -> Any:
            batched = (None if shared_seed else 0, 0)
            return jax.vmap(lambda s, n: self._one(s, n)[1], batched)(seed, numbers)

        seeds = None if shared_seed else width
        return jax.jit(chunk).trace(*self._arguments(seeds, width, sharding))

    def _arguments(
        self,
        seeds: int | None,
        width: int | None,
        sharding: jax.sharding.Sharding | None = None,
    ) -> tuple[Any, Any]:
        def spec(length: int | None, dtype: Any) -> jax.ShapeDtypeStruct:
            shape = () if length is None else (length,)
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        numbers = {name: spec(width, dtype) for name, dtype in self._numbers.items()}
        return spec(seeds, np.int32), numbers


def jax_config() -> dict[str, Any]:
    """The settings of JAX that change a program."""
    return {name: getattr(jax.config, name) for name in _CONFIG}


def auto_width(parameters: int, device: jax.Device, memory: int = 0) -> int:
    """The number of trials that the device trains at once with ease: a power of two.

    As many as suit the parameters, and fit into the memory of the device if each of
    them took so many bytes; on CPU into a gigabyte.
    """
    on_cpu = device.platform == "cpu"
    low, high = _CPU_WIDTHS if on_cpu else _DEVICE_WIDTHS
    room = (_CPU_BYTES if on_cpu else _DEVICE_BYTES) // (4 * _ARRAYS_PER_PARAMETER)
    fits = int(np.clip(room // max(1, parameters), low, high))
    known = (device.memory_stats() or {}).get("bytes_limit", 2**30)
    fits = max(1, min(fits, known // max(1, memory)))
    return int(2 ** (fits.bit_length() - 1))


def _memory(jaxpr: jax.extend.core.Jaxpr) -> int:
    """The bytes of all values of a program, those in the body of a loop once."""
    total = 0
    for equation in jaxpr.eqns:
        avals: list[Any] = [variable.aval for variable in equation.outvars]
        total += sum(aval.size * aval.dtype.itemsize for aval in avals)
        parts = jax.tree.leaves([*equation.params.values()], is_leaf=_is_program)
        programs = filter(_is_program, parts)
        total += sum(_memory(getattr(part, "jaxpr", part)) for part in programs)
    return total


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns")  # a jaxpr, closed or not


def _trial(
    factories: Factories,
    statics: Mapping[str, Any],
    settings: Settings,
    seed: jax.Array,
    numbers: Mapping[str, jax.Array],
) -> tuple[Any, dict[str, jax.Array]]:
    problem, optimizer = factories({**statics, **numbers})
    result = train(problem, optimizer, jax.random.key(seed), **settings._asdict())
    return result.params, variables_of(result)


def _as_function(traced: jax.stages.Traced, shared_seed: bool) -> Callable[..., Any]:
    """A traced chunk as a function of arrays, so that nothing is traced once more.

    What is mapped over devices has a seed for each of them, in an array.
    """
    call = jax.extend.core.jaxpr_as_fun(traced.jaxpr)
    structure = jax.tree.structure(traced.out_info)

    def chunk(seeds: jax.Array, numbers: dict[str, jax.Array]) -> Any:
        seeds = seeds[0] if shared_seed else seeds
        return jax.tree.unflatten(structure, call(*jax.tree.leaves((seeds, numbers))))

    return chunk


def variables_of(result: TrainResult) -> dict[str, jax.Array]:
    """The entries of the dataset, by name."""
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
    variables: dict[str, jax.Array] = {}
    for name, values in found:
        if name in variables:
            raise ValueError(
                f"two results are called {name!r}: rename the metric, or the entry of "
                f"problem.evaluate."
            )
        if values is not None:
            variables[name] = values
    return variables


def compiled_for(traced: jax.stages.Traced, device: jax.Device) -> jax.stages.Compiled:
    """Compiles with the options that suit the program and the device."""
    lowered: jax.stages.Lowered = traced.lower()
    if device.platform == "cpu":
        try:
            return lowered.compile(_cpu_options(str(traced.jaxpr)))
        except jax.errors.JaxRuntimeError as error:
            if "INVALID_ARGUMENT" not in str(error):  # else an option this XLA lacks
                raise
    return lowered.compile()


def _cpu_options(program: str) -> dict[str, Any]:
    """What makes XLA:CPU fast for many small trainings.

    It hands a sum over each trial's few parameters to a library of kernels once its
    input has 4096 elements, which costs more than the whole fused step: 435 ms for
    65,536 trainings of two weights instead of 50. Programs with dots lose without that
    library; for them a lower level gives the same speed after half the compilation.
    The others gain a sixth by vectors of 512 bits, where the processor has them: 4096
    trainings of two weights, 200 steps, take 1.97 ms instead of 2.33.
    """
    if "dot_general" in program or "conv_general_dilated" in program:
        return {"xla_backend_optimization_level": 2}
    return {
        "xla_cpu_experimental_ynn_fusion_type": "",
        "xla_cpu_prefer_vector_width": "512",
    }


def _owners(factories: Factories) -> list[Any]:
    """The objects whose death makes a program useless."""
    problem: Any = factories.problem
    owners: list[Any] = [problem]
    if isinstance(problem, Factory):
        owners = [problem.make]
    elif isinstance(problem, Problem):  # made anew, it has the same functions
        owners = [getattr(problem, name, None) for name in ("init", "loss", "evaluate")]
    return [*(o for o in owners if o is not None), factories.make_optimizer.make]


def _remember(owners: list[Any], key: Hashable, make: Callable[[], _T]) -> _T:
    """What `make` gives, made once for as long as all owners live.

    What is kept must not refer to its owners: traced shapes and compiled programs do
    not, a jitted function would.
    """
    key = (tuple(map(id, owners)), key, tuple(jax_config().values()))
    try:
        known: _T | None = _remembered.get(key)
        references = [weakref.ref(owner) for owner in owners]
    except TypeError:  # an unhashable static value, or an owner that dies unseen
        return make()
    if known is not None:
        return known
    made = _remembered[key] = make()
    for reference in references:
        weakref.finalize(reference(), _remembered.pop, key, None)
    return made
