"""Sweeps: all runs of a space, chunk by chunk, as a labelled dataset."""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

import jax
import numpy as np
import optax
import xarray as xr

from stabjax._arguments import as_integer
from stabjax._sweep.capacity import readable
from stabjax._sweep.compiler import no_mesh
from stabjax._sweep.dataset import NOT_RUN, labelled
from stabjax._sweep.devices import Trainer, on_devices
from stabjax._sweep.estimate import estimated
from stabjax._sweep.executors import by_executor
from stabjax._sweep.gathering import Source, fill, gathered, trials_in
from stabjax._sweep.place import Place, place_of
from stabjax._sweep.plan import Chunk, Plan, check_trials_fit, trials_of
from stabjax._sweep.planning import planned
from stabjax._sweep.program import Inputs, Program
from stabjax._sweep.progress import Watch, watched
from stabjax._sweep.sanity import warn_about
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import Space
from stabjax._sweep.warn import warn
from stabjax._train.arguments import check_lengths, check_rules
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
    accept_versions: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Trains once for every point of a space, as one program, and labels the results.

    Each run is `train` with the key `jax.random.key(seed)`; without an axis `seed` it
    is seed 0. Runs of one seed start from the same parameters and see the same
    minibatches. Every other axis goes, by name, to each of the two functions that has a
    parameter of that name. All numbers are traced and share one compilation; each
    combination of static values (see `grid`) is compiled separately. A second call with
    the same functions and other numbers compiles nothing, unless a value that the
    functions read (a closure, a global, an attribute) has changed.

    Runs are trained `chunk_size` at a time under one `vmap`; the last chunk is padded.
    The width changes the results only by rounding. If every seed has enough runs to
    fill a chunk, the runs of a chunk share their seed and their minibatches. At one
    width the results have the same bits on any number of devices, in any order of the
    chunks, with any executor and after any interruption, on the same kind of device and
    version of JAX.

    With `store`, every finished chunk becomes a file. The same call resumes a sweep
    that was interrupted by Ctrl-C (which finishes the running chunks), a crash or an
    error, and trains only the missing chunks. A call with more values on its axes, or
    more seeds, trains only the new ones. A store of another sweep is refused: one with
    other arguments, another version of JAX or other computations. `runs.load` opens a
    store at any moment.

    A CPU is one device for JAX, whatever its number of cores, and small runs keep only
    one core busy. To use all cores, before JAX is first used:
    `jax.config.update("jax_num_cpu_devices", os.cpu_count())`.

    Args:
      problem: a `stabjax.problems.Problem`, or a function of axes that returns one.
      make_optimizer: function of axes that returns an Optax transformation.
      space: what varies, such as `grid(max_norm=[0.1, 1.0], seed=range(8))`.
      steps: number of updates of each run, >= 1.
      record_every: records loss and metrics at steps 0, record_every, 2 * record_every,
        ..., along the dimension `step`, in [1, steps]. None records nothing.
      chunk_size: runs at a time on each device, >= 1. `"auto"` takes the width of the
        store, or chooses one by the number of parameters.
      divergence_factor: largest allowed loss in units of the initial loss, > 0.
      summaries: names of summaries of all losses, `"mean_loss"` and
        `"convergence_score"`; see `train`.
      target_loss: adds the variable `target_at`, the number of updates after which a
        loss first reached this value; +inf if none did.
      evaluations: number of evaluation keys over which the final loss and
        `problem.evaluate` are averaged, >= 1.
      store: a folder for the results, created if missing.
      devices: devices of this process, such as `jax.devices()[:2]`. None takes all of
        them, or the one in `jax.default_device`.
      executor: any `concurrent.futures.Executor`, such as a `ProcessPoolExecutor` or
        the `get_executor()` of a Dask client, whose workers train the chunks. A chunk
        that fails twice is reported in a warning, and its runs have no results.
      part: (i, n) trains only the i-th of n parts of the chunks, counted from 0. Any
        number of independent jobs can share a store this way; each returns what the
        store holds when it ends. None trains all chunks, or under `jax.distributed`
        the part of this process.
      accept_versions: also uses stored results of other versions of JAX, Optax or
        stabjax, whose last bits may differ. Nothing then checks that problem and
        optimizer are the same. The attribute `earlier_versions` names the versions, and
        the file of each chunk its own.
      dry_run: trains one chunk of each program, or of four of many, stores nothing, and
        returns the dataset without results. Its attributes are estimates for this
        process: `expected_seconds`, `expected_compile_seconds`, `expected_device_bytes`
        on all devices, `expected_host_bytes` and, of these, `expected_result_bytes`.
      progress: shows a bar in a terminal or a notebook: finished runs, runs per second,
        the remaining time and the fraction that diverged.

    Returns:
      A dataset with the dimensions of the space, in its order. Variables: `final_loss`,
      `best_loss`, `status` (0 stable, 1 diverged, -1 not run), `diverged_at` (`steps`
      if stable), the summaries, the entries of `problem.evaluate` and, if recorded,
      `loss` and all metrics along `step` (`clip/grad_norm` is named `clip_grad_norm`).
      Losses of a diverged run are +inf, and so are its non-finite evaluations. NaN
      means that there is no value; metrics are shown as they were. The attributes are
      the versions, the device, the arguments and the time, without compilation.

    Raises:
      ValueError, TypeError: an argument is not as above, an axis goes nowhere, a
        function needs what no axis provides, the store belongs to another sweep, or a
        function cannot be pickled for an executor. A divergence raises nothing.
      OSError: the store cannot be written to; its contents are untouched.
      RuntimeError: the executor breaks down.

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
    steps, record_every, evaluations = check_lengths(steps, record_every, evaluations)
    check_rules(divergence_factor, summaries, target_loss)
    settings = Settings(
        steps,
        record_every,
        float(divergence_factor),
        tuple(summaries),
        None if target_loss is None else float(target_loss),
        evaluations,
    )
    place = place_of(store, devices, executor, part, progress, accept_versions)
    given = problem, make_optimizer, space, settings, chunk_size
    if isinstance(space, Space):
        warn_about(space, steps)
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
    """Plans a sweep or a halving, trains what the store lacks, labels the results."""
    given = problem, make_optimizer, space, settings, chunk_size
    start = time.perf_counter()
    with no_mesh():
        while True:
            plan, programs = _planned(*given, place)
            check_trials_fit(plan.space, [group.variables for group in plan.groups])
            train = _trainer(plan, programs, place)
            # False if another process has extended the store meanwhile.
            if place.store is None or place.store.write_plan(plan):
                break
        traced = time.perf_counter() - start
        total = trials_in(plan, place.part)
        with watched(total, place.progress, place.store is not None) as watch:
            results = gathered(plan, _source(plan, place, train, watch))
        if place.part[1] > 1 and place.store:  # the results of the other processes
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
    size = None if chunk_size == "auto" else as_integer("chunk_size", chunk_size)
    return planned(problem, make_optimizer, space, settings, size, place)


def _trainer(plan: Plan, programs: Sequence[Program], place: Place) -> Trainer:
    if place.executor:
        return by_executor(place.executor, programs, plan.groups)
    return on_devices(place.devices, programs, plan.groups)


def _source(plan: Plan, place: Place, train: Trainer, watch: Watch) -> Source:
    """Returns what reads the results of chunks, or trains and stores them."""

    def results(
        chunks: Sequence[Chunk], inputs: Callable[[Chunk], Inputs]
    ) -> Iterator[tuple[Chunk, dict[str, _Array]]]:
        part, parts = place.part
        pending = {c.number: c for c in chunks if c.number % parts == part}
        if place.store:
            for chunk, found in place.store.chunks(plan, [*pending.values()]):
                watch.skip(len(pending.pop(chunk.number).trials))
                yield chunk, found
        if not watch.bar.disable and pending:
            watch.bar.write(_announced(plan, [*pending.values()]), file=sys.stderr)
        failures = []
        try:
            for chunk, outcome in train([*pending.values()], inputs, watch):
                if isinstance(outcome, Exception):
                    failures.append(_failure(plan, chunk, outcome))
                    continue
                if place.store:
                    place.store.write_chunk(plan, chunk, outcome)
                watch.count(outcome["status"])
                del pending[chunk.number]
                yield chunk, outcome
        except KeyboardInterrupt:
            if not watch.stopped():
                raise
        if failures:
            warn(
                f"{len(failures)} of the chunks failed at every attempt; their trials "
                f"have the status {NOT_RUN}: {'; '.join(failures)}."
            )
        if pending and place.store and watch.stopped():
            raise KeyboardInterrupt(
                f"stopped with {watch.done} of {watch.total} trials in the store "
                f"{str(place.store.folder)!r}: the same call resumes from there."
            )

    return results


def _announced(plan: Plan, chunks: Sequence[Chunk]) -> str:
    """What is about to be trained, before anything is compiled."""
    numbers = {chunk.group for chunk in chunks}
    text = f"{trials_of(chunks):,} trials"
    if len(numbers) > 1:
        text += f", {len(numbers)} programs to compile"
    return f"{text}, {readable(plan.host_bytes)} of memory for trials and results"


def _failure(plan: Plan, chunk: Chunk, error: Exception) -> str:
    """The trials that failed, by the range of each axis, and the error."""
    where = []
    for axis in plan.space.axes:
        values = np.unique(axis.labels[plan.space.rows[axis.name][chunk.trials]])
        shown = f"{values[0]}" if len(values) == 1 else f"{values[0]}...{values[-1]}"
        where.append(f"{axis.name}={shown}")
    text = f"{type(error).__name__}: {error}"
    return (
        f"chunk {chunk.number} ({len(chunk.trials)} trials: {' '.join(where)}): {text}"
    )
