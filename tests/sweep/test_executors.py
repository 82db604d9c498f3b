"""Sweeps on threads, processes and a Dask cluster: the same bits, whatever breaks."""

import concurrent.futures
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time

import jax
import optax
import pytest
import trainings
from trainings import assert_same_bits, chunk_files, make_optimizer, run

import stabjax
from stabjax._sweep import executors
from stabjax._sweep.store import Store


@pytest.fixture(scope="module")
def alone():
    with jax.numpy_dtype_promotion("strict"):
        return run()


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        yield executor


def test_threads(alone, threads, tmp_path):
    runs = run(executor=threads, store=tmp_path)
    assert_same_bits(runs, alone)
    assert_same_bits(stabjax.runs.load(tmp_path), alone)


@pytest.mark.slow
def test_programs_of_static_values_are_all_sent(threads):
    def make(kind, rate):
        return {"sgd": optax.sgd, "half": lambda r: optax.sgd(r / 2)}[kind](rate)

    space = stabjax.grid(kind=["sgd", "half"], rate=[0.1, 0.2, 0.3])
    call = functools.partial(run, make_optimizer=make, space=space)
    assert_same_bits(call(executor=threads), call())


def test_a_program_is_made_once_for_all_chunks(threads):
    executors._program.cache_clear()
    run(executor=threads)
    assert executors._program.cache_info().misses == 1


@pytest.fixture
def failing(monkeypatch):
    """Lets the tasks of some chunks fail, known by the first of their rates."""
    train, calls, lock = executors.train_chunk, [], threading.Lock()
    times = {}

    def unreliable(recipe, shared, lanes, sweep):
        rate = round(float(lanes["rate"][0]), 3)
        with lock:
            calls.append(rate)
            failed = calls.count(rate) <= times.get(rate, 0)
        if failed:
            raise MemoryError(f"no room for {rate}")
        return train(recipe, shared, lanes, sweep)

    monkeypatch.setattr(executors, "train_chunk", unreliable)
    return times


# The first rates of two chunks of each seed: of the second and of the fourth.
SECOND, FOURTH = 0.274, 0.803


def test_what_fails_once_is_tried_again(alone, threads, failing):
    failing[SECOND] = 1
    assert_same_bits(run(executor=threads), alone)


def test_what_fails_always_does_not_sink_the_rest(alone, threads, failing, tmp_path):
    failing[FOURTH] = 1000
    message = (
        r"3 of the chunks failed .* status -1: .*chunk \d+ \(4 trials: rate=0.803\d*"
        r"\.\.\.0.935\d* max_norm=1.0\.\.\.inf seed=\d\): MemoryError: no room"
    )
    with pytest.warns(RuntimeWarning, match=message):
        runs = run(executor=threads, store=tmp_path)
    holes = runs.status == -1
    assert int(holes.sum()) == 12
    assert runs.final_loss.isnull().equals(holes)
    held = ~holes.values
    assert (runs.final_loss.values[held] == alone.final_loss.values[held]).all()
    failing.clear()
    assert_same_bits(run(store=tmp_path), alone)


def test_a_broken_pool_keeps_what_was_finished(alone, tmp_path, monkeypatch):
    class Breaking(concurrent.futures.ThreadPoolExecutor):
        tasks = 0

        def submit(self, *args):
            self.tasks += 1
            if self.tasks > 6:
                raise concurrent.futures.BrokenExecutor("a worker died")
            return super().submit(*args)

    monkeypatch.setattr(executors, "_SUBMITTED", 2)
    with Breaking(2) as executor:
        message = "broke .BrokenExecutor: a worker died.* new executor to resume"
        with pytest.raises(RuntimeError, match=message):
            run(executor=executor, store=tmp_path)
    assert 4 <= len(chunk_files(tmp_path)) <= 6
    before = chunk_files(tmp_path)
    assert_same_bits(run(store=tmp_path), alone)
    assert {name: chunk_files(tmp_path)[name] for name in before} == before


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_keeps_the_tasks_in_hand(alone, threads, tmp_path, monkeypatch):
    write, written = Store.write_chunk, []

    def interrupted(*args):
        write(*args)
        written.append(None)
        if len(written) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(executors, "_SUBMITTED", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_chunk", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"of 60 trials in the store"):
            run(executor=threads, store=tmp_path)
    assert_same_bits(run(store=tmp_path), alone)


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_that_kills_the_workers_too_is_a_ctrl_c(tmp_path, monkeypatch):
    class Dying(concurrent.futures.ThreadPoolExecutor):
        tasks = 0

        def submit(self, *args):
            self.tasks += 1
            if self.tasks <= 4:
                return super().submit(*args)
            signal.raise_signal(signal.SIGINT)
            future = concurrent.futures.Future()
            future.set_exception(concurrent.futures.BrokenExecutor("a worker died"))
            return future

    monkeypatch.setattr(executors, "_SUBMITTED", 2)
    with (
        Dying(2) as executor,
        pytest.raises(KeyboardInterrupt, match=r"stopped with 1\d of 60 trials"),
    ):
        run(executor=executor, store=tmp_path)
    # Two tasks run at once, so the fourth may still run when the fifth dies.
    assert len(chunk_files(tmp_path)) in (3, 4)


_PRESSED = []


def pressing(rate):
    """An optimizer whose first step in a process presses Ctrl-C there."""

    def on_host(value):
        if not _PRESSED:
            _PRESSED.append(None)
            os.kill(os.getpid(), signal.SIGINT)
        return value

    def update(updates, state, params=None):
        del params
        rates = jax.pure_callback(on_host, rate, rate, vmap_method="expand_dims")
        return -rates * updates, state

    return optax.GradientTransformation(lambda w: optax.EmptyState(), update)


@pytest.mark.slow
def test_the_first_ctrl_c_leaves_the_chunk_of_a_worker_process_alone():
    """In a terminal, Ctrl-C reaches the workers as well."""
    spawn, space = multiprocessing.get_context("spawn"), stabjax.grid(rate=[0.1, 0.2])
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as executor:
        runs = stabjax.sweep(
            trainings.WITHOUT_EVALUATION,
            pressing,
            space,
            steps=2,
            chunk_size=1,
            executor=executor,
        )
    assert runs.status.values.tolist() == [0, 0]


def test_what_cannot_be_pickled_is_said_before_anything_runs(threads, tmp_path):
    lock = threading.Lock()

    def make(rate, max_norm):
        with lock:
            return make_optimizer(rate, max_norm)

    with pytest.raises(TypeError, match="must be picklable if executor is given"):
        run(make_optimizer=make, executor=threads, store=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_lambda_without_cloudpickle(threads, monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(TypeError, match="picklable .*lambda.*Install cloudpickle"):
        run(make_optimizer=lambda rate, max_norm: optax.sgd(rate), executor=threads)


def test_bad_input():
    with pytest.raises(TypeError, match="executor must be a concurrent.futures.Exec"):
        run(executor=4)


def test_workers_have_their_own_devices(threads):
    with pytest.raises(ValueError, match="devices must be None if executor is given"):
        run(executor=threads, devices=jax.devices())


@pytest.mark.slow
def test_a_pool_of_processes(alone, tmp_path):
    spawn, space = multiprocessing.get_context("spawn"), trainings.space(60, 10)
    with concurrent.futures.ProcessPoolExecutor(2, spawn) as executor:
        assert_same_bits(run(executor=executor, store=tmp_path / "a"), alone)
        # And with a worker that is killed: what was finished is kept.
        store = tmp_path / "b"
        killer = threading.Thread(
            target=kill_soon, args=(list(executor._processes)[0], store)
        )
        killer.start()
        with pytest.raises(RuntimeError, match="executor broke .*BrokenProcessPool"):
            run(executor=executor, store=store, space=space)
        killer.join()
    before = chunk_files(store)
    assert 5 <= len(before) < 300
    assert_same_bits(run(store=store, space=space), run(space=space))
    assert {name: chunk_files(store)[name] for name in before} == before


def kill_soon(pid, store):
    while len(chunk_files(store)) < 5:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask's own, of its processes and sockets
def test_a_dask_cluster_with_a_killed_worker(tmp_path):
    distributed = pytest.importorskip("distributed")
    space = trainings.space(60, 10)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        first, second = client.run(os.getpid).values()
        assert first != second
        killer = threading.Thread(target=kill_soon, args=(first, tmp_path))
        killer.start()
        runs = run(executor=client.get_executor(), store=tmp_path, space=space)
        killer.join()
        assert first not in client.run(os.getpid).values()
    assert_same_bits(runs, run(space=space))
    assert len(chunk_files(tmp_path)) == 300
