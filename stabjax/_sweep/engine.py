"""All runs of a sweep: chunk by chunk, wherever they run, into a dataset."""

import os
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

import jax
import numpy as np
import optax
import xarray as xr

from stabjax._sweep.compiler import no_mesh
from stabjax._sweep.dataset import NOT_RUN, labelled
from stabjax._sweep.devices import Trainer, on_devices
from stabjax._sweep.estimate import estimated
from stabjax._sweep.executors import by_executor
from stabjax._sweep.gathering import Source, fill, gathered, trials_in
from stabjax._sweep.place import Place, place_of
from stabjax._sweep.plan import Chunk, Plan
from stabjax._sweep.planning import planned
from stabjax._sweep.program import Inputs, Program
from stabjax._sweep.progress import Watch, watched
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import Space
from stabjax._train.arguments import (
    check_divergence_factor,
    check_evaluations,
    check_lengths,
    check_summaries,
    positive_int,
)
from stabjax._train.problem import Problem
from stabjax._train.trial import DIVERGENCE_FACTOR

_Array = np.ndarray[Any, Any]
_Factory = Problem | Callable[..., Problem]
_MakeOptimizer = Callable[..., optax.GradientTransformation]


def sweep(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    *,
    steps: int,
    record_every: int | None = None,
    chunk_size: int | Literal["auto"] = "auto",
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
    check_lengths(steps, record_every)
    check_divergence_factor(divergence_factor)
    check_summaries(summaries, target_loss)
    check_evaluations(evaluations)
    settings = Settings(
        int(steps),
        None if record_every is None else int(record_every),
        float(divergence_factor),
        tuple(summaries),
        None if target_loss is None else float(target_loss),
        int(evaluations),
    )
    place = place_of(store, devices, executor, part, progress)
    given = problem, make_optimizer, space, settings, chunk_size
    if not dry_run:
        return trained(*given, place)
    with no_mesh():
        start = time.perf_counter()
        plan, programs = _planned(*given, place)
        return estimated(plan, programs, place, time.perf_counter() - start)


def trained(
    problem: _Factory,
    make_optimizer: _MakeOptimizer,
    space: Space,
    settings: Settings,
    chunk_size: int | Literal["auto"],
    place: Place,
) -> xr.Dataset:
    """Plans a sweep, or a search by halving, trains what is not stored, labels it."""
    given = problem, make_optimizer, space, settings, chunk_size
    start = time.perf_counter()
    with no_mesh():
        while True:
            plan, programs = _planned(*given, place)
            train = _trainer(plan, programs, place)
            # False if another process has extended the store meanwhile.
            if place.store is None or place.store.write_plan(plan):
                break
        traced = time.perf_counter() - start
        total = trials_in(plan, place.part)
        with watched(total, place.progress, place.store is not None) as watch:
            results = gathered(plan, _source(plan, place, train, watch))
        if place.part[1] > 1 and place.store:  # what the others have stored meanwhile
            for chunk, variables in place.store.chunks(plan, plan.chunks()):
                fill(results, chunk, variables)
    return labelled(plan, results, watch.cost(traced))


def _planned(
    problem: _Factory,
    make_optimizer: _MakeOptimizer,
    space: Space,
    settings: Settings,
    chunk_size: int | Literal["auto"],
    place: Place,
) -> tuple[Plan, list[Program]]:
    if not isinstance(space, Space):
        raise TypeError(
            f"space must be a space such as grid(max_norm=[0.1, 1.0]), "
            f"got {type(space).__name__}."
        )
    if chunk_size != "auto" and not positive_int(chunk_size):
        raise ValueError(
            f'chunk_size must be "auto" or a positive integer, got {chunk_size!r}.'
        )
    size = None if chunk_size == "auto" else int(chunk_size)
    return planned(problem, make_optimizer, space, settings, size, place)


def _trainer(plan: Plan, programs: Sequence[Program], place: Place) -> Trainer:
    if place.executor:
        return by_executor(place.executor, programs, plan.groups)
    return on_devices(place.devices, programs, plan.groups)


def _source(plan: Plan, place: Place, train: Trainer, watch: Watch) -> Source:
    """What gives the results of chunks: read from the store, or trained and stored."""

    def results(
        chunks: Sequence[Chunk], inputs: Callable[[Chunk], Inputs]
    ) -> Iterator[tuple[Chunk, dict[str, _Array]]]:
        part, parts = place.part
        pending = {c.number: c for c in chunks if c.number % parts == part}
        if place.store:
            for chunk, found in place.store.chunks(plan, [*pending.values()]):
                watch.skip(len(pending.pop(chunk.number).trials))
                yield chunk, found
        programs = len({chunk.group for chunk in pending.values()})
        if programs > 1 and not watch.bar.disable:
            watch.bar.write(f"{programs} programs to compile", file=sys.stderr)
        failures = []
        for chunk, outcome in train([*pending.values()], inputs, watch):
            if isinstance(outcome, Exception):
                failures.append(_failure(plan, chunk, outcome))
                continue
            if place.store:
                place.store.write_chunk(plan, chunk, outcome)
            watch.count(outcome["status"])
            del pending[chunk.number]
            yield chunk, outcome
        if failures:
            warnings.warn(
                f"{len(failures)} of the chunks failed each time they were tried, "
                f"their trials have the status {NOT_RUN}: {'; '.join(failures)}",
                RuntimeWarning,
                stacklevel=5,
            )
        if pending and place.store and watch.stopped():
            raise KeyboardInterrupt(
                f"stopped with {watch.done} of {watch.total} trials in the store "
                f"{str(place.store.folder)!r}: the same call resumes from there."
            )

    return results


def _failure(plan: Plan, chunk: Chunk, error: Exception) -> str:
    """Which trials failed, and why: each axis with its values among them."""
    where = []
    for axis in plan.space.axes:
        values = np.unique(axis.labels[plan.space.rows[axis.name][chunk.trials]])
        shown = f"{values[0]}" if len(values) == 1 else f"{values[0]}...{values[-1]}"
        where.append(f"{axis.name}={shown}")
    text = f"{type(error).__name__}: {error}"
    return (
        f"chunk {chunk.number} ({len(chunk.trials)} trials: {' '.join(where)}): {text}"
    )
