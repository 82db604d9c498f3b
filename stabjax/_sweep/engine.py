"""All trainings of a sweep: in chunks of a fixed width, gathered into a dataset."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from tqdm import tqdm

from stabjax._sweep.chunks import Chunks, Points, in_chunks, padded, points
from stabjax._sweep.factories import Factories, name_of, route
from stabjax._sweep.program import Settings, Shapes, Trials, auto_width
from stabjax._sweep.space import RESULTS, Space
from stabjax._sweep.trial import (
    DIVERGENCE_FACTOR,
    Problem,
    check_divergence_factor,
    check_lengths,
    positive_int,
)

_IN_FLIGHT = 4  # chunks started before the oldest of them is fetched
_DESCRIPTIONS = {
    "final_loss": {"long_name": "final loss"},
    "best_loss": {"long_name": "best loss"},
    "status": {"long_name": "status (0 held, 1 diverged)"},
    "diverged_at": {"long_name": "first diverged step", "units": "steps"},
    "loss": {"long_name": "loss"},
}

_Array = np.ndarray[Any, Any]


def sweep(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    *,
    steps: int,
    record_every: int | None = None,
    chunk_size: int | str = "auto",
    divergence_factor: float = DIVERGENCE_FACTOR,
    progress: bool = True,
) -> xr.Dataset:
    """Trains once for every point of a space, all in one program, labelled.

    Each training is `train` with the key `jax.random.key(seed)`, seed 0 where the
    space has no such axis; so trainings with one seed start alike and see the same
    minibatches. Every other axis goes, by name, to each of the two functions that has a
    parameter of that name. All numbers are traced and share one compilation; each
    combination of static values (see `grid`) has its own. A second call with the same
    functions and other numbers compiles nothing; as under `jax.jit`, what a function
    closes over is read when it is first called.

    Trainings run `chunk_size` at a time under one `vmap`, the last chunk padded; the
    width of chunks changes no more than the rounding of a result. Where a seed has
    enough trials to fill chunks, those of a chunk share it, and so its minibatches.

    Args:
      problem: a problem for `train`, or a function of axes that makes one.
      make_optimizer: a function of axes that makes an Optax transformation.
      space: what varies, such as `grid(max_norm=[0.1, 1.0], seed=range(8))`.
      steps: number of updates of each training.
      record_every: records loss and metrics at steps 0, record_every, 2 * record_every
        ..., along the dimension `step`. None records nothing.
      chunk_size: trainings at a time; "auto" goes by the number of parameters.
      divergence_factor: a loss above this many times the initial one is a divergence.
      progress: shows a bar of the trials done, where standard error is a terminal.

    Returns:
      A dataset whose dimensions are those of the space, in its order. Variables:
      `final_loss`, `best_loss`, `status` (0 held, 1 diverged), `diverged_at` (`steps`
      where it held), what `problem.evaluate` gives and, if recorded, `loss` and all
      metrics along `step` (`clip/grad_norm` is called `clip_grad_norm`). Losses of a
      diverged training are +inf, and so is an evaluation that is not finite; NaN means
      that there is no value (metrics apart, which are shown as they were). The
      attributes are the versions, the device, the sweep's arguments and the time it
      took, compilation apart.

    Raises:
      ValueError, TypeError: if an argument is not as above, an axis goes nowhere, or a
        function needs what no axis has. A divergence raises nothing.

    Example:
      >>> import optax, stabjax
      >>> def make_optimizer(rate, max_norm):
      ...     return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))
      >>> space = stabjax.grid(rate=[0.1, 0.9, 1.1], max_norm=[1.0, float("inf")])
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=100)
      >>> print(runs.status.sel(max_norm=float("inf")).values)
      [0 0 1]
    """
    if not isinstance(space, Space):
        raise TypeError(
            f"space must be a space such as grid(max_norm=[0.1, 1.0]), "
            f"got {type(space).__name__}."
        )
    check_lengths(steps, record_every)
    check_divergence_factor(divergence_factor)
    if chunk_size != "auto" and not positive_int(chunk_size):
        raise ValueError(
            f'chunk_size must be "auto" or a positive integer, got {chunk_size!r}.'
        )
    factories = route(problem, make_optimizer, [axis.name for axis in space.axes])
    every = None if record_every is None else int(record_every)
    settings = Settings(int(steps), every, float(divergence_factor))
    size = None if chunk_size == "auto" else int(chunk_size)
    work = _prepare(factories, space, settings, size)
    results, cost = _run(work, len(space), progress)
    attributes = {
        "problem": name_of(problem),
        "optimizer": name_of(make_optimizer),
        "steps": settings.steps,
        "divergence_factor": settings.divergence_factor,
        **_about(work, cost, len(space)),
    }
    return _dataset(space, settings, results, attributes)


class _Group(NamedTuple):
    """The trials of one program."""

    program: Trials
    shapes: Shapes
    chunks: Chunks


class _Work(NamedTuple):
    """All that is to run, checked and traced, but not compiled."""

    given: Points
    groups: list[_Group]
    device: jax.Device
    trace_seconds: float


class _Cost(NamedTuple):
    compile_seconds: float
    run_seconds: float


def _prepare(
    factories: Factories, space: Space, settings: Settings, chunk_size: int | None
) -> _Work:
    start = time.perf_counter()
    (device,) = jnp.zeros(()).devices()
    given = points(space)
    dtypes = {name: values.dtype for name, values in given.numbers.items()}
    groups = []
    for statics, trials in space.groups():
        program = Trials(factories, statics, dtypes, settings)
        shapes = program.shapes()
        auto = auto_width(shapes.parameters, device)
        chunks = in_chunks(trials, given, chunk_size, auto)
        groups.append(_Group(program, shapes, chunks))
    _check_names(space, groups)
    return _Work(given, groups, device, time.perf_counter() - start)


def _check_names(space: Space, groups: list[_Group]) -> None:
    axes = {"step", "trial", "seed", *(axis.name for axis in space.axes)}
    for name in {name for group in groups for name in group.shapes.variables}:
        if name in axes:
            raise ValueError(
                f"{name!r} is an axis or a dimension of the dataset and also a metric "
                f"or an entry of problem.evaluate: rename one of the two."
            )


def _run(work: _Work, size: int, progress: bool) -> tuple[dict[str, _Array], _Cost]:
    """Runs all chunks and gathers their variables, trial by trial."""
    start, compiling = time.perf_counter(), 0.0
    done = diverged = 0
    results = _unfilled([group.shapes for group in work.groups], size)
    with tqdm(total=size, unit="trial", disable=None if progress else True) as bar:
        if len(work.groups) > 1 and not bar.disable:
            bar.write(f"{len(work.groups)} programs to compile", file=sys.stderr)
        for group in work.groups:
            before = time.perf_counter()
            program = group.program.compiled(
                group.chunks.width, group.chunks.shared_seed, work.device
            )
            compiling += time.perf_counter() - before
            for trials, variables in _finished(program, group.chunks, work.given):
                for name, values in variables.items():
                    results[name][trials] = values[: len(trials)]
                diverged += int(results["status"][trials].sum())
                done += len(trials)
                bar.set_postfix(diverged=f"{diverged / done:.1%}", refresh=False)
                bar.update(len(trials))
    total = time.perf_counter() - start
    return results, _Cost(work.trace_seconds + compiling, total - compiling)


def _finished(
    program: jax.stages.Compiled, chunks: Chunks, given: Points
) -> Iterator[tuple[_Array, dict[str, _Array]]]:
    """Runs the chunks; gives the oldest result back while newer ones are computed."""
    running: deque[tuple[_Array, dict[str, jax.Array]]] = deque()
    for trials in chunks.trials:
        lanes = padded(trials, chunks.width)
        seeds = given.seeds[lanes[0] if chunks.shared_seed else lanes]
        running.append((trials, program(seeds, given.at(lanes))))
        if len(running) > _IN_FLIGHT:
            trials, variables = running.popleft()
            yield trials, jax.device_get(variables)
    for trials, variables in running:
        yield trials, jax.device_get(variables)


def _unfilled(shapes: list[Shapes], size: int) -> dict[str, _Array]:
    """Arrays for the variables of all groups; NaN where a group lacks one."""
    given = {name for group in shapes for name in group.variables}
    results = {}
    for name in [*filter(given.__contains__, RESULTS), *sorted(given - {*RESULTS})]:
        found = [g.variables[name] for g in shapes if name in g.variables]
        dtype = np.result_type(*(_numpy_dtype(variable.dtype) for variable in found))
        if len(found) < len(shapes):
            dtype = np.result_type(dtype, np.float32)
        missing = {"f": np.nan, "i": -1}.get(dtype.kind, 0)
        results[name] = np.full((size, *found[0].shape), missing, dtype)
    return results


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """The type itself, or float32 for the short floats that NumPy lacks."""
    if jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).kind != "f":
        return np.dtype(np.float32)
    known: np.dtype[Any] = np.dtype(dtype)
    return known


def _dataset(
    space: Space,
    settings: Settings,
    results: dict[str, _Array],
    attributes: dict[str, Any],
) -> xr.Dataset:
    dims = [dimension.name for dimension in space.dimensions]
    coords: dict[str, Any] = {
        axis.name: (dimension.name, axis.labels)
        for dimension in space.dimensions
        for axis in dimension.axes
    }
    if settings.record_every is not None:
        coords["step"] = np.arange(0, settings.steps, settings.record_every)
        attributes = {**attributes, "record_every": settings.record_every}
    variables = {
        name: (
            [*dims, "step"] if values.ndim > 1 else dims,
            values.reshape(*space.shape, *values.shape[1:]),
            _DESCRIPTIONS.get(name, {}),
        )
        for name, values in results.items()
    }
    return xr.Dataset(variables, coords, attributes)


def _about(work: _Work, cost: _Cost, size: int) -> dict[str, Any]:
    widths = sorted({group.chunks.width for group in work.groups})
    return {
        "chunk_size": widths[0] if len(widths) == 1 else ", ".join(map(str, widths)),
        "trials": size,
        "programs": len(work.groups),
        "compile_seconds": round(cost.compile_seconds, 3),
        "seconds": round(cost.run_seconds, 3),
        "trainings_per_second": round(size / cost.run_seconds, 1),
        "platform": work.device.platform,
        "device": work.device.device_kind,
        "stabjax": version("stabjax"),
        "jax": jax.__version__,
        "optax": optax.__version__,
    }
