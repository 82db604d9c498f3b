"""All trainings of a sweep: chunk by chunk, wherever they run, into a dataset."""

import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr

from stabjax._sweep.chunks import Chunk
from stabjax._sweep.dataset import NOT_RUN, labelled, unfilled
from stabjax._sweep.devices import Batches, on_devices
from stabjax._sweep.estimate import estimated
from stabjax._sweep.executors import Tasks, by_executor
from stabjax._sweep.job import Job, Place, failure, place, prepare
from stabjax._sweep.program import settings_of
from stabjax._sweep.progress import Clock, progress_bar, stop_requests
from stabjax._sweep.space import Space
from stabjax._sweep.store import fill, stored, write_chunk, write_spec
from stabjax._train.arguments import positive_int
from stabjax._train.problem import Problem
from stabjax._train.trial import DIVERGENCE_FACTOR

_Array = np.ndarray[Any, Any]
_Outcome = tuple[Chunk, dict[str, _Array] | Exception]


def sweep(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    *,
    steps: int,
    record_every: int | None = None,
    chunk_size: int | str = "auto",
    divergence_factor: float = DIVERGENCE_FACTOR,
    summaries: Collection[str] = (),
    target_loss: float | None = None,
    evaluations: int = 1,
    store: str | os.PathLike[str] | None = None,
    devices: Sequence[jax.Device] | None = None,
    executor: Executor | None = None,
    part: tuple[int, int] | None = None,
    dry_run: bool = False,
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
    At one width the results are the same to the last bit, on however many devices, in
    whatever order and by whatever executor the chunks ran, resumed or not, as long as
    the kind of device and the version of JAX are the same.

    With `store`, a folder, each finished chunk becomes a file in it. A sweep that was
    interrupted, by Ctrl-C (which finishes the chunks in hand), by a crash or by an
    error, is resumed by the same call: chunks that the store has do not run again. A
    call with more values on its axes, or more seeds, trains only what is new. A store
    of any other sweep, which differs in an argument, in the versions of JAX or in what
    the functions compute, is refused. `load` shows a store at any moment.

    CPUs count as one device, whatever their number of cores, and small trainings do not
    keep more than one core busy. To use all of them, before anything else is done with
    JAX: `jax.config.update("jax_num_cpu_devices", os.cpu_count())`.

    Args:
      problem: a problem for `train`, or a function of axes that makes one.
      make_optimizer: a function of axes that makes an Optax transformation.
      space: what varies, such as `grid(max_norm=[0.1, 1.0], seed=range(8))`.
      steps: number of updates of each training.
      record_every: records loss and metrics at steps 0, record_every, 2 * record_every
        ..., along the dimension `step`. None records nothing.
      chunk_size: trainings at a time on each device; "auto" goes by the number of
        parameters, or takes what the store has.
      divergence_factor: a loss above this many times the initial one is a divergence.
      summaries: of the losses of all steps, by name: "mean_loss", the area under the
        curve divided by the steps, and "convergence_score", whose sign says whether a
        training converged; see `train`.
      target_loss: adds the variable `target_at`, the number of updates after which a
        loss was at most this for the first time; +inf where none was.
      evaluations: number of evaluation keys over which the final loss and
        `problem.evaluate` are averaged.
      store: a folder that keeps what is finished, made if there is none.
      devices: those of this process that work, such as `jax.devices()[:2]`; None for
        all of them, or for the one that `jax.default_device` names.
      executor: any `concurrent.futures.Executor`, such as a `ProcessPoolExecutor` or
        the `get_executor()` of a Dask client, whose workers train the chunks instead of
        this process. A chunk that fails twice is reported in a warning that names its
        trials, which stay without a result.
      part: (i, n) to train only the i-th of n parts of the chunks, counted from 0: as
        many jobs as one likes may share a store, and need not know of each other. Each
        returns what the store has when it is done. None for all chunks, or, under
        `jax.distributed`, for the part of this process.
      dry_run: trains one chunk of each program only, and returns the dataset with no
        trial run, whose attributes say what to expect of this process: programs,
        `expected_seconds` beside `expected_compile_seconds`, `expected_device_bytes`
        on all devices and `expected_result_bytes`. Nothing is stored.
      progress: shows a bar, in a terminal or a notebook: trials done, trainings a
        second, time left, and the share that diverged.

    Returns:
      A dataset whose dimensions are those of the space, in its order. Variables:
      `final_loss`, `best_loss`, `status` (0 held, 1 diverged, -1 not run),
      `diverged_at` (`steps` where it held), the summaries, what `problem.evaluate`
      gives and, if recorded, `loss` and all metrics along `step` (`clip/grad_norm` is
      called `clip_grad_norm`). Losses of a diverged training are +inf, and so is an
      evaluation that is not finite; NaN means that there is no value (metrics apart,
      which are shown as they were). The attributes are the versions, the device, the
      sweep's arguments and the time it took, compilation apart.

    Raises:
      ValueError, TypeError: if an argument is not as above, an axis goes nowhere, a
        function needs what no axis has, the store is another sweep's, or a function
        cannot be pickled for an executor. A divergence raises nothing.
      OSError: if the store cannot be written to; what it holds stays as it is.
      RuntimeError: if the executor breaks down.

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
    settings = settings_of(
        steps, record_every, divergence_factor, summaries, target_loss, evaluations
    )
    if chunk_size != "auto" and not positive_int(chunk_size):
        raise ValueError(
            f'chunk_size must be "auto" or a positive integer, got {chunk_size!r}.'
        )
    size = None if chunk_size == "auto" else int(chunk_size)
    where = place(store, devices, executor, part)
    job = prepare(problem, make_optimizer, space, settings, size, where)
    if dry_run:
        return estimated(job, where)
    results, cost = _run(job, where, progress)
    return labelled(job.spec, results, cost)


def _run(
    job: Job, where: Place, progress: bool
) -> tuple[dict[str, _Array], dict[str, Any]]:
    """Trains what has not been trained yet, and gathers all of it trial by trial."""
    variables = [group.variables for group in job.spec.groups]
    results = unfilled(variables, len(job.spec.layout.space))
    missing = _missing(job, where, results)
    part, parts = where.part
    mine = [chunk for chunk in job.chunks if chunk.number % parts == part]
    pending = [chunk for chunk in mine if chunk.number in missing]
    if where.store and pending:
        write_spec(where.store, job.spec)
    clock, total, left = Clock(time.perf_counter()), _trials(mine), _trials(pending)
    with (
        stop_requests(where.store is not None) as stop,
        progress_bar(total, total - left, progress) as bar,
    ):
        outcomes = _finished(job, where, pending, stop, clock, bar)
        for chunk in _kept(outcomes, job, where, results, bar):
            del missing[chunk.number]
    lost = _trials(chunk for chunk in pending if chunk.number in missing)
    if lost and stop():
        raise KeyboardInterrupt(
            f"stopped with {total - lost} of {total} trials in the store "
            f"{str(where.store)!r}: the same call resumes from there."
        )
    if parts > 1:  # what the others have stored meanwhile
        _missing(job, where, results)
    return results, clock.cost(job.trace_seconds, left - lost)


def _missing(job: Job, where: Place, results: dict[str, _Array]) -> dict[int, Chunk]:
    """The chunks that are not in the store; what the others gave is filled in."""
    missing = {chunk.number: chunk for chunk in job.chunks}
    if where.store:
        found = stored(where.store, job.spec, job.chunks, job.given.rows)
        for chunk, variables in found:
            fill(results, chunk, variables)
            del missing[chunk.number]
    return missing


def _kept(
    outcomes: Iterator[_Outcome],
    job: Job,
    where: Place,
    results: dict[str, _Array],
    bar: Any,
) -> Iterator[Chunk]:
    """Puts each outcome where it belongs, and gives the chunks that were trained."""
    done = diverged = 0
    failures: list[str] = []
    for chunk, outcome in outcomes:
        if isinstance(outcome, Exception):
            failures.append(failure(job, chunk, outcome))
            continue
        if where.store:
            write_chunk(where.store, job.spec, chunk, job.given.rows, outcome)
        fill(results, chunk, outcome)
        done += len(chunk.trials)
        diverged += int((outcome["status"] == 1).sum())
        bar.set_postfix(diverged=f"{diverged / done:.1%}", refresh=False)
        bar.update(len(chunk.trials))
        yield chunk
    if failures:
        warnings.warn(
            f"{len(failures)} of the chunks failed each time they were tried, their "
            f"trials have the status {NOT_RUN}: {'; '.join(failures)}",
            RuntimeWarning,
            stacklevel=4,
        )


def _finished(
    job: Job,
    where: Place,
    chunks: list[Chunk],
    stop: Callable[[], bool],
    clock: Clock,
    bar: Any,
) -> Iterator[_Outcome]:
    """What the chunks gave, in the order in which they finish."""
    groups = job.spec.groups
    programs = len({chunk.group for chunk in chunks})
    if programs > 1 and not bar.disable:
        bar.write(f"{programs} programs to compile", file=sys.stderr)
    if where.executor:
        tasks = Tasks(job.recipes, groups, job.given)
        yield from by_executor(where.executor, tasks, chunks, stop)
        return
    chunks = sorted(chunks, key=lambda chunk: chunk.group)
    for number, members in itertools.groupby(chunks, key=lambda chunk: chunk.group):
        if stop():
            break
        together = list(members)
        devices = where.devices[: len(together)]
        before = time.perf_counter()
        program = job.programs[number].compiled(groups[number], devices)
        clock.compiling += time.perf_counter() - before
        batches = Batches(program, len(devices), groups[number], job.given)
        yield from on_devices(batches, together, stop)


def _trials(chunks: Iterable[Chunk]) -> int:
    return sum(len(chunk.trials) for chunk in chunks)
