"""What a sweep has to do, and where: checked and traced, but not yet compiled."""

import hashlib
import inspect
import operator
import os
import time
import tokenize
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import stabjax
from stabjax._sweep.chunks import Chunk, Group, Points, chunked, points, widths
from stabjax._sweep.devices import local_devices
from stabjax._sweep.executors import Recipe, packed
from stabjax._sweep.factories import is_problem, name_of, route
from stabjax._sweep.program import (
    Settings,
    Trials,
    auto_width,
    jax_config,
    settings_of,
)
from stabjax._sweep.space import Space
from stabjax._sweep.spec import Spec, group_like, to_text
from stabjax._sweep.store import check_same, layout_in, read_spec, refused
from stabjax._train.trial import DIVERGENCE_FACTOR

_Array = np.ndarray[Any, Any]


class Place(NamedTuple):
    """Where chunks run, which of them, and where they are kept."""

    devices: tuple[jax.Device, ...]
    executor: Executor | None
    part: tuple[int, int]  # this process and the number of them
    store: Path | None


class Job(NamedTuple):
    """All that a sweep consists of."""

    spec: Spec
    programs: list[Trials]
    recipes: list[bytes]  # of the programs, for workers
    given: Points
    chunks: list[Chunk]
    trace_seconds: float


def place(
    store: str | os.PathLike[str] | None,
    devices: Sequence[jax.Device] | None,
    executor: Executor | None,
    part: tuple[int, int] | None,
) -> Place:
    """Checks where a sweep is to run."""
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, such as "
            f"ProcessPoolExecutor(), got {type(executor).__name__}."
        )
    if executor is not None and devices is not None:
        raise ValueError("devices cannot be chosen for the workers of an executor.")
    chosen = local_devices(devices)
    if part is None and jax.process_count() > 1:
        part = jax.process_index(), jax.process_count()
    mine = (0, 1) if part is None else _checked_part(part)
    if mine[1] > 1 and store is None:
        raise ValueError(
            f"part {mine[0]} of {mine[1]} is of no use alone: give all processes the "
            f"same store."
        )
    return Place(chosen, executor, mine, None if store is None else Path(store))


def prepare(
    problem: Any,
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    settings: Settings,
    chunk_size: int | None,
    where: Place,
) -> Job:
    """Traces the trials of each program, and lays out the chunks that they run in."""
    start = time.perf_counter()
    factories = route(problem, make_optimizer, [axis.name for axis in space.axes])
    held = read_spec(where.store) if where.store else None
    layout = layout_in(where.store, held, space)
    given = points(layout.space)
    dtypes = {name: values.dtype for name, values in given.numbers.items()}
    programs, groups, recipes = [], [], []
    for statics, trials in layout.space.groups():
        program = Trials(factories, statics, dtypes, settings)
        group = _group(program, trials, given, chunk_size, where.devices[0])
        group = group._replace(labels=_labels(layout.space, given, int(trials[0])))
        if held is not None:
            group = _as_held(group, held, chunk_size, where)
        if where.store or where.executor:
            found = program.fingerprint(group.width, group.shared_seed)
            group = group._replace(program=found)
        programs.append(program)
        groups.append(group)
        if where.executor:
            recipe = Recipe(factories, statics, dtypes, settings, group, jax_config())
            recipes.append(packed(recipe))
    _check_names(space, groups)
    spec = Spec(
        layout,
        groups,
        settings,
        _numerics(where.devices[0]),
        {
            **_about(problem, make_optimizer, where),
            "optimizer_takes": ", ".join(factories.make_optimizer.takes),
        },
    )
    if where.store and held:
        check_same(where.store, held, spec)
    chunks = chunked(layout.space, given.seeds, layout.sizes, groups)
    return Job(spec, programs, recipes, given, chunks, time.perf_counter() - start)


def fingerprint(
    problem: Any,
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    *,
    steps: int,
    record_every: int | None = None,
) -> str:
    """The SHA-256 of all that a sweep's results depend on; nothing is trained."""
    settings = settings_of(steps, record_every, DIVERGENCE_FACTOR, (), None, 1)
    here = place(None, None, None, (0, 1))
    job = prepare(problem, make_optimizer, space, settings, None, here)
    pairs = zip(job.programs, job.spec.groups, strict=True)
    groups = [
        group._replace(program=program.fingerprint(group.width, group.shared_seed))
        for program, group in pairs
    ]
    text = to_text(job.spec._replace(groups=groups, about={}))
    return hashlib.sha256(text.encode()).hexdigest()


def failure(job: Job, chunk: Chunk, error: Exception) -> str:
    """Which trials failed, and why: each axis with its values among them."""
    where = []
    for axis in job.spec.layout.space.axes:
        values = np.unique(axis.labels[job.given.rows[axis.name][chunk.trials]])
        shown = f"{values[0]}" if len(values) == 1 else f"{values[0]}...{values[-1]}"
        where.append(f"{axis.name}={shown}")
    text = f"{type(error).__name__}: {error}"
    return (
        f"chunk {chunk.number} ({len(chunk.trials)} trials: {' '.join(where)}): {text}"
    )


def _group(
    program: Trials,
    trials: _Array,
    given: Points,
    chunk_size: int | None,
    device: jax.Device,
) -> Group:
    shapes = program.shapes()
    auto = auto_width(shapes.parameters, device, shapes.memory)
    width, shared_seed = widths(trials, given, chunk_size, auto)
    return Group({}, width, shared_seed, shapes.variables)


def _labels(space: Space, given: Points, trial: int) -> dict[str, str]:
    return {
        axis.name: str(axis.labels[given.rows[axis.name][trial]])
        for axis in space.axes
        if axis.is_static
    }


def _as_held(group: Group, held: Spec, chunk_size: int | None, where: Place) -> Group:
    """The group with chunks like those that a store has of it: the same last bits."""
    known = group_like(held, group.labels)
    if known is None:
        return group
    if chunk_size not in (None, known.width):
        raise refused(
            where.store, [f"chunk_size is {known.width} there and {chunk_size} here"]
        )
    return group._replace(width=known.width, shared_seed=known.shared_seed)


def _check_names(space: Space, groups: list[Group]) -> None:
    axes = {"step", "trial", "seed", *(axis.name for axis in space.axes)}
    for name in {name for group in groups for name in group.variables}:
        if name in axes:
            raise ValueError(
                f"{name!r} is an axis or a dimension of the dataset and also a metric "
                f"or an entry of problem.evaluate: rename one of the two."
            )


def _numerics(device: jax.Device) -> dict[str, Any]:
    """What changes the last bits of a result beside the program."""
    versions = {"jax": jax.__version__, "jaxlib": version("jaxlib")}
    config = {n: v for n, v in jax_config().items() if "promotion" not in n}
    harmless = ("--xla_force_host_platform_device_count", "--xla_dump")
    flags = os.environ.get("XLA_FLAGS", "").split()
    config["XLA_FLAGS"] = " ".join(f for f in flags if not f.startswith(harmless))
    return {**versions, "platform": device.platform, **config}


def _about(problem: Any, make_optimizer: Any, where: Place) -> dict[str, Any]:
    about: dict[str, Any] = {
        "problem": name_of(problem),
        "optimizer": name_of(make_optimizer),
        "device": where.devices[0].device_kind,
        "stabjax": stabjax.__version__,
        "optax": optax.__version__,
    }
    if where.store:
        sources = {"make_optimizer": make_optimizer, "problem": problem}
        if is_problem(problem):
            sources["problem"] = problem.loss
        about["source"] = {role: _source(made) for role, made in sources.items()}
    return about


def _source(function: Any) -> str | None:
    try:
        return inspect.getsource(getattr(function, "func", function))
    # Typed in; no Python; a file that is another one by now.
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):
        return None


def _checked_part(part: Any) -> tuple[int, int]:
    try:
        mine, number = map(operator.index, part)
    except (TypeError, ValueError):
        mine, number = -1, 0
    if not 0 <= mine < number:
        raise ValueError(
            f"part must be (i, n): part i of n, with i from 0 to n - 1, got {part!r}."
        )
    return mine, number
