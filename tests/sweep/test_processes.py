"""Sweeps in several processes, some of which are killed: the same bits everywhere."""

import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest
import trainings
from trainings import assert_same_bits, chunk_files

import stabjax

TESTS = pathlib.Path(__file__).parent
SPACE = trainings.space(rates=40, seeds=10)  # 200 chunks

# Imports once, and forks for each run: JAX has not started a thread by then.
FORKING = """
import os, sys, warnings
import trainings
from stabjax._sweep import devices

start = devices.start

def logged(program, count, batch, inputs):
    os.write(log, b"".join(b"%d\\n" % chunk.number for chunk in batch))
    return start(program, count, batch, inputs)

devices.start = logged
for line in sys.stdin:
    store, log_file = line.split()
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if (pid := os.fork()) == 0:
        space = trainings.space(rates=40, seeds=10)
        trainings.run(store=store, space=space, devices=None)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def environment(devices, **more):
    """For a process with so many devices that imports what this one imports."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    flags = (
        f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    )
    return {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": flags, **more}


def with_cache(folder):
    """JAX's compilations are kept here, however short they were."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def started(log):
    """The chunks that a process began; the line it died in does not count."""
    return {int(line) for line in log.read_text().split("\n")[:-1]}


def runs(pid):
    """Whether there still is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_killed_and_resumed(tmp_path, kills=30):
    rng = random.Random(kills)
    store, log = tmp_path / "store", tmp_path / "log"
    forking = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        env=environment(2, **with_cache(tmp_path / "cache")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with forking:
        for kill in range(kills + 1):
            before = chunk_files(store)
            print(store, log, file=forking.stdin, flush=True)
            pid = int(forking.stdout.readline())
            if kill < kills:
                # During the compilation, or within some chunk, or behind it.
                enough = rng.randrange(200 // kills + 1) if kill % 10 else 0
                while len(started(log)) < enough and runs(pid):
                    time.sleep(0.0005)
                time.sleep(rng.random() * (0.005 if enough else 0.5))
                with contextlib.suppress(ProcessLookupError):  # it was faster
                    os.kill(pid, signal.SIGKILL)
            status = int(forking.stdout.readline())
            after = chunk_files(store)
            assert {name: after[name] for name in before} == before
            assert not started(log) & {int(name[:6]) for name in before}
        assert status == 0
        forking.stdin.close()
    assert len(chunk_files(store)) == 200
    with jax.numpy_dtype_promotion("standard"):
        assert_same_bits(stabjax.runs.load(store), trainings.run(space=SPACE))


@pytest.mark.slow
def test_processes_of_jax_distributed_share_a_store(tmp_path):
    """Each trains its part; the runs that a process returns are those in the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code = (
        "import jax, sys, trainings\n"
        f"jax.distributed.initialize({address!r}, 2, int(sys.argv[1]))\n"
        "assert (jax.process_count(), jax.local_device_count()) == (2, 2)\n"
        f"runs = trainings.run(store={str(tmp_path)!r}, devices=None)\n"
        "print(int((runs.status != -1).sum()))\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(process)],
            env=environment(2),
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    seen = [int(process.communicate(timeout=120)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert min(seen) >= 28  # of 60 trials; whoever comes last sees them all
    assert len(chunk_files(tmp_path)) == 15
    with jax.numpy_dtype_promotion("standard"):
        assert_same_bits(stabjax.runs.load(tmp_path), trainings.run())


@pytest.mark.slow
def test_a_second_process_compiles_nothing_that_is_in_the_cache(tmp_path):
    code = (
        "import jax.numpy as jnp, optax, stabjax\n"
        "def make_optimizer(rate, max_norm):\n"
        "    clip = stabjax.clip_by_global_norm(max_norm)\n"
        "    return optax.chain(clip, optax.sgd(rate))\n"
        "space = stabjax.grid(rate=jnp.logspace(-2, 1, 8), max_norm=[0.1, 1.0])\n"
        "problem = stabjax.problems.digits_mlp()\n"
        "runs = stabjax.sweep(problem, make_optimizer, space, steps=20)\n"
        "print(runs.attrs['compile_seconds'])\n"
    )
    seconds, kept = [], []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(2, **with_cache(tmp_path)),
            capture_output=True,
            check=True,
            text=True,
        )
        seconds.append(float(done.stdout))
        kept.append({file.name for file in tmp_path.glob("*-cache")})
    assert kept[0] == kept[1] and kept[0]
    assert seconds[1] < seconds[0]
