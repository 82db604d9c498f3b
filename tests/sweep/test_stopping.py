"""Ctrl-C, once and twice: what is finished is kept, what runs is left."""

import os
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import optax
import pytest
from trainings import WITHOUT_EVALUATION, chunk_files

import stabjax

# The program of the last rate never ends.
SCRIPT = """
import multiprocessing, sys, jax, optax, stabjax
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from jax import lax

def loss(w, key):
    def outer(i, x):
        return lax.fori_loop(0, work, lambda j, x: x * 0.5 + 1.0, x)
    work = lax.stop_gradient(w[1]).astype(int) * 2**15
    extra = lax.fori_loop(0, work, outer, lax.stop_gradient(w[0]))
    return (w[0] ** 2) + 0.0 * extra

def problem(work):
    return stabjax.problems.Problem(lambda key: jax.numpy.array([1.0, work]), loss)

def make_optimizer(rate):
    return optax.sgd(rate)

def pool():
    if sys.argv[2] == "threads":
        return ThreadPoolExecutor(1)
    if sys.argv[2] == "processes":
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    return nullcontext()

if __name__ == "__main__":
    space = stabjax.grid(work=[0.0, 0.0, 1e9], rate=[0.1])
    with pool() as executor:
        stabjax.sweep(
            problem, make_optimizer, space, steps=3, chunk_size=1, store=sys.argv[1],
            devices=None if executor else jax.devices()[:1], executor=executor,
        )
"""


def stopped_twice(process, ready):
    """Waits, presses twice; returns what it says and the seconds to that and its end.

    Its last words are the traceback, after the executor has shut down.
    """
    late = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < late:
        time.sleep(0.01)
    for _ in range(2):
        time.sleep(0.3)
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, words = [], start
    for line in process.stderr:
        said.append(line)
        if "stopped with" in line:
            words = time.monotonic()
    process.wait(timeout=60)
    return "".join(said), words - start, time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("where", ["devices", "threads", "processes"])
def test_a_second_ctrl_c_ends_the_process_within_a_second(tmp_path, keyboard, where):
    script, tmp_path = tmp_path / "script.py", tmp_path / "store"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), where],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        said, words, end = stopped_twice(
            process, lambda: len(chunk_files(tmp_path)) == 2
        )
    assert 0 < words < 1
    if where != "processes":  # else JAX takes its time to exit, with nothing running
        assert end < 1
        assert process.returncode == 130
    assert "Press Ctrl-C again to stop now" in said
    assert "stopped with 2 of 3 trials in the store" in said
    assert len(chunk_files(tmp_path)) == 2
    assert stabjax.runs.load(tmp_path).status.values.ravel().tolist() == [0, 0, -1]


# A program that compiles ahead of the one that Ctrl-C interrupts.
AHEAD = """
import threading
from stabjax._sweep.background import Background

compiling = threading.Event()

def compile_ahead():
    compiling.set()
    threading.Event().wait()

with Background() as compilers:
    compilers.submit(compile_ahead)
    compiling.wait()
    raise KeyboardInterrupt
"""

# An error, which the script handles, while a call is running.
HANDLED = """
import threading, time
from stabjax._sweep.background import Background

running, ended = threading.Event(), threading.Event()

def call():
    running.set()
    time.sleep(0.3)
    ended.set()

try:
    with Background() as thread:
        thread.submit(call)
        running.wait()
        raise ValueError
except ValueError:
    assert not ended.is_set()
"""


@pytest.mark.slow
def test_a_running_compilation_does_not_crash_the_exit():
    """XLA aborts if Python ends while one of its threads returns to Python."""
    process = subprocess.run([sys.executable, "-c", AHEAD], timeout=60, check=False)
    assert process.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise SystemExit(3)", 3)])
def test_a_running_call_does_not_change_the_exit_code(end, code):
    script = HANDLED + end
    process = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert process.returncode == code


def slow_above(limit, entered, until):
    """An optimizer that waits for an event if its rate is large."""

    def make(rate):
        def on_host(value):
            if value > limit:
                entered.set()
                until.wait(60)
            return np.float32(value)

        def update(updates, state, params=None):
            del params
            shape = jax.ShapeDtypeStruct((), np.float32)
            found = jax.pure_callback(on_host, shape, rate, vmap_method="sequential")
            return -found * updates, state

        return optax.GradientTransformation(lambda w: optax.EmptyState(), update)

    return make


@pytest.mark.slow
@pytest.mark.usefixtures("keyboard")
@pytest.mark.parametrize("how", ["store", "no store"])
def test_a_notebook_survives_it(tmp_path, how):
    """The running program is left to itself, and the next sweep is as usual."""
    entered, until = threading.Event(), threading.Event()
    store = tmp_path if how == "store" else None
    call = {
        "space": stabjax.grid(rate=[0.1, 0.2, 0.9]),
        "steps": 2,
        "chunk_size": 1,
        "devices": jax.devices()[:1],
        "store": store,
    }
    problem, make = WITHOUT_EVALUATION, slow_above(0.5, entered, until)
    times = []

    def press():
        late = time.monotonic() + 60
        while store and len(chunk_files(store)) < 2 and time.monotonic() < late:
            time.sleep(0.01)
        entered.wait(60)
        for _ in range(2 if store else 1):
            time.sleep(0.2)
            times.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt, match="2 of 3" if store else "^$"):
        stabjax.sweep(problem, make, **call)
    seconds = time.monotonic() - times[-1]
    presser.join()
    until.set()
    assert seconds < 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    runs = stabjax.sweep(problem, make, **call)
    assert runs.status.values.tolist() == [0, 0, 0]
