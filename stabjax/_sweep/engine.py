"""The `sweep` function, which trains all runs of a space in chunks."""

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
from stabjax._sweep.compiler import no_mesh
from stabjax._sweep.dataset import NOT_RUN, labelled, labelled_chunk
from stabjax._sweep.devices import Trainer, on_devices
from stabjax._sweep.estimate import estimated
from stabjax._sweep.executors import by_executor
from stabjax._sweep.first_problem import first_problem
from stabjax._sweep.free_memory import readable
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
from stabjax._train.arguments import (
    check_lengths,
    check_rules,
    steps_of,
    steps_per_epoch,
)
from stabjax._train.divergence import DIVERGENCE_FACTOR
from stabjax._train.problem import Problem
from stabjax._train.stopping import EarlyStopping, checked_rule

_Array = np.ndarray[Any, Any]
_Factory = Problem | Callable[..., Problem]
_MakeOptimizer = Callable[..., optax.GradientTransformation]


def sweep(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    record_every: int | None = None,
    evaluate_every: int | Literal["epoch"] | None = None,
    stop: EarlyStopping | Callable[..., object] | None = None,
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
    on_chunk: Callable[[xr.Dataset], object] | None = None,
) -> xr.Dataset:
    """Trains one run for every point of a space and returns a labeled dataset.

    Each run calls `train` with the key `jax.random.key(seed)`. The seed is 0 if the
    space has no `seed` axis. Runs with the same seed have the same initial parameters
    and the same minibatches. Every other axis is passed by name to `problem` and
    `make_optimizer`, wherever they have a parameter with that name. Numbers are traced
    and share one compilation. Each combination of static values (see `grid`) is
    compiled separately. Calling `sweep` again with the same functions and different
    numbers does not recompile, unless a closure, global or attribute that the functions
    read has changed.

    Runs are trained in chunks of `chunk_size` with `vmap`, and the last chunk is
    padded. The chunk size affects the results only through rounding. If every seed has
    enough runs, all runs of a chunk share a seed and its minibatches.
    Runs of at most 64 parameters whose steps consist of a few scalar operations are
    compiled to a single function on CPU, or a single kernel on GPU, with rounding of
    its own. The attribute `engine` of the result is then `"lanes"` instead of `"vmap"`.
    For a fixed chunk size, JAX version and kind of device, the results are bitwise
    identical for any number of devices, execution order or executor, and after any
    interruption. Convolutional networks on CPU are an exception: their rounding
    differs between one device and several.

    If `store` is given, each finished chunk is saved to a file. To resume a sweep after
    Ctrl-C, a crash or an error, repeat the call: only the missing chunks are trained.
    Ctrl-C waits for the running chunks. If axis values or seeds are added, only the new
    runs are trained. A store that was created with different arguments, computations or
    JAX versions is rejected. Use `runs.load` to open a store, even during a sweep.

    JAX treats the CPU as a single device regardless of its number of cores, and small
    runs use only one core. To use all cores, call
    `jax.config.update("jax_num_cpu_devices", os.cpu_count())` before any other JAX
    code.

    Args:
      problem: a `stabjax.problems.Problem`, or a function that takes axes by name and
        returns one.
      make_optimizer: a function that takes axes by name and returns an Optax gradient
        transformation.
      space: the search space, such as `grid(max_norm=[0.1, 1.0], seed=range(8))`.
      steps: number of updates in each run, >= 1. **Static.**
      epochs: number of passes over the data, >= 1, instead of `steps`. All problems of
        the space must have the same `metadata["steps_per_epoch"]`. **Static.**
      record_every: records the loss and the metrics at steps 0, record_every,
        2 * record_every, ... along the dimension `step`, in [1, steps]. By default,
        nothing is recorded. **Static.**
      evaluate_every: evaluates the problem after every N updates, in [1, steps] and a
        multiple of `record_every`, or after every `"epoch"`. An entry `test_loss` of
        `problem.evaluate` becomes a variable `test_loss_curve` along the dimension
        `evaluated_at`, the number of updates. **Static.**
      stop: a rule that stops runs early, such as
        `EarlyStopping("test_loss", patience=3)`, or a function that returns whether to
        stop, as in `train`. It adds the variable `stopped_at`, and a rule also
        `best_at` and `best_test_loss`. A chunk ends when all its runs have stopped or
        diverged. It needs `evaluate_every`. **Static.**
      chunk_size: number of runs per chunk and device, >= 1. `"auto"` uses the chunk
        size of the store, or chooses one from the number of parameters. **Static.**
      divergence_factor: a loss above this multiple of the initial loss counts as
        diverged, > 0. **Static.**
      summaries: names of loss summaries, `"mean_loss"` or `"convergence_score"`. See
        `train`.
      target_loss: adds the variable `target_at`, the number of updates after which the
        loss first reached this value, or +inf if it never did. **Static.**
      evaluations: number of evaluation keys over which the final loss and
        `problem.evaluate` are averaged, >= 1. **Static.**
      store: a folder for the results, which is created if it does not exist.
      devices: local devices to use, such as `jax.devices()[:2]`. Defaults to
        `jax.default_device` if it is set, and to all local devices otherwise.
      executor: a `concurrent.futures.Executor` whose workers train the chunks, such as
        a `ProcessPoolExecutor` or the `get_executor()` of a Dask client. If a chunk
        fails twice, `sweep` issues a warning and the chunk has no results.
      part: a tuple (i, n) that selects the i-th of n parts of the chunks, counting from
        0. Independent jobs can share a store in this way. Each job returns all results
        that are in the store when it finishes. Defaults to all chunks, or to the part
        of this process under `jax.distributed`.
      accept_versions: whether to keep stored results of other versions of JAX, Optax or
        stabjax, whose last bits may differ. `sweep` then cannot check that the problem
        and the optimizer are unchanged. The attribute `earlier_versions` and the file
        of each chunk record the versions.
      dry_run: if True, trains one chunk of each program, or of a few programs if there
        are many, stores nothing and returns an empty dataset. Its attributes estimate
        the cost for this process: `expected_seconds`, `expected_compile_seconds`,
        `expected_device_bytes` (sum over the devices), `expected_host_bytes` and
        `expected_result_bytes` (a part of the host bytes). `expected_loop_seconds` is
        the time of a Python loop that trains one run after another with a jitted step.
        A warning is issued if the sweep takes more than a second and 20% longer.
      progress: whether to show a progress bar in a terminal or notebook. The bar shows
        the finished runs, runs per second, the remaining time and the fraction of
        diverged runs.
      on_chunk: a function that is called after each finished chunk with a dataset of
        its runs along the dimension `trial`, for example to log them. Chunks in the
        store are not passed to it.

    Returns:
      A dataset with the dimensions of the space. Its variables are `final_loss`,
      `best_loss`, `status` (0 stable, 1 diverged, -1 not run), `diverged_at` (`steps`
      if stable), the summaries and the entries of `problem.evaluate`. If recorded,
      `loss` and all metrics vary along `step` (`clip/grad_norm` is named
      `clip_grad_norm`). All losses and non-finite evaluations of a diverged run are
      +inf. Recorded metrics are not modified. NaN marks missing values. The attributes
      contain versions, the device, the arguments, the training time and the compilation
      time.

    Raises:
      ValueError, TypeError: If an argument is invalid, an axis does not match any
        parameter, a parameter without a default does not match any axis, the store
        belongs to another sweep, or a function cannot be pickled for an executor.
        Divergence does not raise an error.
      OSError: If the store is not writable. Its contents are left unchanged.
      RuntimeError: If the executor breaks.

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
    by_epochs = epochs is not None or evaluate_every == "epoch"
    model = first_problem(problem, make_optimizer, space) if by_epochs else None
    if evaluate_every == "epoch":
        evaluate_every = steps_per_epoch(model)
    lengths, evaluations = check_lengths(
        steps_of(model, steps, epochs), record_every, evaluate_every, evaluations
    )
    check_rules(divergence_factor, summaries, target_loss)
    settings = Settings(
        lengths.steps,
        lengths.record_every,
        float(divergence_factor),
        tuple(summaries),
        None if target_loss is None else float(target_loss),
        evaluations,
        evaluate_every=lengths.evaluate_every,
    ).stopping(checked_rule(stop, lengths.evaluate_every))
    if on_chunk is not None and not callable(on_chunk):
        raise TypeError(f"on_chunk must be a function of a dataset, got {on_chunk!r}.")
    place = place_of(store, devices, executor, part, progress, accept_versions)
    place = place._replace(on_chunk=on_chunk)
    given = problem, make_optimizer, space, settings, chunk_size
    if isinstance(space, Space):
        warn_about(space, lengths.steps)
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
    """Plans a sweep or halving, trains the missing chunks and returns the dataset."""
    given = problem, make_optimizer, space, settings, chunk_size
    start = time.perf_counter()
    with no_mesh():
        while True:
            plan, programs = _planned(*given, place)
            check_trials_fit(plan.space, [group.variables for group in plan.groups])
            train = _trainer(plan, programs, place)
            # write_plan returns False if another process has extended the store in the
            # meantime. The plan must then include the new values.
            if place.store is None or place.store.write_plan(plan):
                break
        traced = time.perf_counter() - start
        total = trials_in(plan, place.part)
        shown, stoppable = place.progress, place.store is not None
        with watched(total, shown, stoppable) as watch:
            results = gathered(plan, _source(plan, place, train, watch))
        if place.part[1] > 1 and place.store:  # results of other processes
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
            f"space must be a Space such as grid(max_norm=[0.1, 1.0]), "
            f"got {type(space).__name__}."
        )
    size = None if chunk_size == "auto" else as_integer("chunk_size", chunk_size)
    return planned(problem, make_optimizer, space, settings, size, place)


def _trainer(plan: Plan, programs: Sequence[Program], place: Place) -> Trainer:
    if place.executor:
        return by_executor(place.executor, programs, plan.groups)
    return on_devices(place.devices, programs, plan.groups)


def _source(plan: Plan, place: Place, train: Trainer, watch: Watch) -> Source:
    """Returns a function that loads chunks from the store or trains and stores them."""

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
                if place.on_chunk:
                    place.on_chunk(labelled_chunk(plan, chunk, outcome))
                del pending[chunk.number]
                yield chunk, outcome
        except KeyboardInterrupt:
            if not watch.stopped():
                raise
        if failures:
            warn(
                f"{len(failures)} of the chunks failed at every attempt and have the "
                f"status {NOT_RUN}: {'; '.join(failures)}."
            )
        if pending and place.store and watch.stopped():
            raise KeyboardInterrupt(
                f"stopped with {watch.done} of {watch.total} trials in the store "
                f"{str(place.store.folder)!r}. Repeat the call to resume."
            )

    return results


def _announced(plan: Plan, chunks: Sequence[Chunk]) -> str:
    """Describes the trials and programs before compilation."""
    numbers = {chunk.group for chunk in chunks}
    text = f"{trials_of(chunks):,} trials"
    if len(numbers) > 1:
        text += f", {len(numbers)} programs to compile"
    return f"{text}, {readable(plan.host_bytes)} of memory for trials and results"


def _failure(plan: Plan, chunk: Chunk, error: Exception) -> str:
    """Describes a failed chunk by the range of each axis and the error."""
    where = []
    for axis in plan.space.axes:
        values = np.unique(axis.labels[plan.space.rows[axis.name][chunk.trials]])
        shown = f"{values[0]}" if len(values) == 1 else f"{values[0]}...{values[-1]}"
        where.append(f"{axis.name}={shown}")
    text = f"{type(error).__name__}: {error}"
    return (
        f"chunk {chunk.number} ({len(chunk.trials)} trials: {' '.join(where)}): {text}"
    )
