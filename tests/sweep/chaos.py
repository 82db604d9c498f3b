"""Several processes on one store while everything goes wrong; what must hold, holds.

    python tests/sweep/chaos.py --rounds 200

In every round two to four processes train one sweep into one store, each perhaps with
more values than the others. Some are killed at a random moment, some find the disk
full. Files of chunks and copies of spec.json are deleted or damaged, and clocks are
wrong. After each round:

- a file that was whole before the round, and that chaos has left alone, is untouched;
- no process has trained a chunk twice, or one that was whole before the round;
- `load` opens the store, and each run in it has the bits of a quiet sweep.

At the end a quiet call finishes the sweep, with the bits of a quiet sweep.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter

TESTS = pathlib.Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from compiler import xla_flags  # noqa: E402

if __name__ == "__main__":  # else by conftest, or by the process that has forked
    os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""))

import numpy as np  # noqa: E402
import trainings  # noqa: E402
from trainings import assert_same_bits  # noqa: E402

import stabjax  # noqa: E402

# Imports once, and forks for each process: JAX has not started a thread by then.
SERVER = """
import json, os, resource, signal, sys, warnings
import chaos, trainings
from stabjax._sweep import devices

start = devices.start

def logged(program, count, batch, inputs):
    os.write(log, b"".join(b"%d\\n" % chunk.number for chunk in batch))
    return start(program, count, batch, inputs)

devices.start = logged
warnings.simplefilter("ignore")
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitpid(order["wait"], 0)[1], flush=True)
        continue
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if (pid := os.fork()) == 0:
        code = 1
        try:
            if order["full"]:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (order["full"],) * 2)
            trainings.run(store=order["store"], space=chaos.space_of(order["level"]))
            code = 0
        except (OSError, ValueError) as error:
            code = 2 if isinstance(error, OSError) else 3
            if not ("cannot" in str(error) or "contains another sweep" in str(error)):
                sys.stderr.write(f"{error}\\n")
                code = 1
        finally:
            os._exit(code)
    os.close(log)
    print(pid, flush=True)
"""
_RATES = np.random.default_rng(0).permutation(np.linspace(0.01, 1.2, 60))


def space_of(level):
    """A space that holds all of lower levels."""
    return stabjax.grid(
        rate=np.sort(_RATES[: 4 + level // 2]),
        max_norm=[1.0, np.inf],
        seed=range(2 + (level + 1) // 2),
    )


class Chaos:
    """A store, the processes that share it, and what has happened so far."""

    def __init__(self, folder, seed):
        self.rng, self.folder = random.Random(seed), folder
        self.store, self.level = folder / "store", 0
        self.seen, self.broken = Counter(), {}  # chunk -> its damaged content
        self.quiet = None

    def __enter__(self):
        path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        self.server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")]),
                "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            },
        )
        return self

    def __exit__(self, *error):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def ask(self, **order):
        print(json.dumps(order), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def files(self):
        """The chunks in the store: their inodes and contents."""
        found = {}
        for path in (self.store / "chunks").glob("[0-9]*.npz"):
            with contextlib.suppress(FileNotFoundError):
                found[int(path.stem)] = (path.stat().st_ino, digest(path))
        return found

    def damage(self):
        """Deletes or damages a few files."""
        paths = sorted((self.store / "chunks").glob("[0-9]*.npz"))
        for path in self.rng.sample(paths, min(len(paths), self.rng.randrange(4))):
            how = self.rng.choice(["deleted", "cut", "flipped", "emptied"])
            self.seen[how] += 1
            with contextlib.suppress(FileNotFoundError):
                content = bytearray(path.read_bytes())
                if how == "deleted":
                    path.unlink()
                elif how == "cut":
                    path.write_bytes(content[: len(content) // 2])
                elif how == "flipped" and content:
                    content[self.rng.randrange(len(content))] ^= 4
                    path.write_bytes(content)
                else:
                    path.write_bytes(b"")
                self.broken[int(path.stem)] = None if how == "deleted" else digest(path)
        specs = [self.store / "spec.json", self.store / "chunks" / "spec.json"]
        if all(map(is_whole, specs)) and self.rng.random() < 0.3:
            spec = self.rng.choice(specs)
            self.seen["spec.json"] += 1
            if self.rng.random() < 0.5:
                spec.unlink()
            else:
                spec.write_text("{")

    def turn_clocks(self):
        """Files seem to be of another time, and a lock of another host is left."""
        for path in self.store.rglob("*"):
            if self.rng.random() < 0.3:
                with contextlib.suppress(FileNotFoundError):
                    when = time.time() + self.rng.uniform(-1e7, 1e7)
                    os.utime(path, (when, when))
                    self.seen["clock"] += 1

    def round(self):
        """Lets some processes run, and checks what must hold."""
        if self.store.exists():
            self.damage()
            self.turn_clocks()
        before = self.files()
        for number, content in [*self.broken.items()]:  # not repaired so far
            if number in before and before[number][1] == content:
                del before[number]
            else:
                del self.broken[number]
        logs, pids = [], []
        for number in range(self.rng.randint(2, 4)):
            grow = self.rng.random() < 0.15 and self.level < 100
            self.level += grow
            full = self.rng.choice([900, 2000]) if self.rng.random() < 0.15 else 0
            logs.append(self.folder / f"log-{number}")
            logs[-1].write_text("")
            pids.append(
                self.ask(
                    store=str(self.store),
                    log=str(logs[-1]),
                    level=max(0, self.level - (self.rng.random() < 0.2)),
                    full=full,
                )
            )
        self.kill(pids, logs)
        for pid in pids:
            status = self.ask(wait=pid)
            code = os.waitstatus_to_exitcode(status)
            self.seen[{0: "finished", 2: "full", 3: "refused", -9: "killed"}[code]] += 1
        self.check(before, logs)

    def kill(self, pids, logs):
        """Kills some processes: as they plan or compile, or within some chunk."""
        for pid, log in zip(pids, logs, strict=True):
            if self.rng.random() < 0.5:
                chunks, late = self.rng.randrange(8), time.monotonic() + 10
                while chunks > len(started(log)) and time.monotonic() < late:
                    time.sleep(0.001)
                time.sleep(self.rng.random() * (0.01 if chunks else 1.0))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def check(self, before, logs):
        after = self.files()
        assert {n: after.get(n) for n in before} == before, "a finished chunk is lost"
        for log in logs:
            trained = started(log)
            assert len({*trained}) == len(trained), "a chunk is trained twice"
            assert not {*trained} & {*before}, "a finished chunk is trained again"
            self.seen["trained"] += len(trained)
        if not (self.store / "spec.json").exists():
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runs = stabjax.runs.load(self.store)
        assert_runs_are_those_of(self.quiet, runs)


def digest(path):
    """A hash of the content of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def started(log):
    """The chunks that a process began; the line it died in does not count."""
    return [int(line) for line in log.read_text().split("\n")[:-1]]


def is_whole(path):
    """Whether a file holds JSON."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True


def assert_runs_are_those_of(quiet, runs):
    """Every run of the one has the bits that it has in the other."""
    held = runs.status.values != -1
    same = quiet.sel(rate=runs.rate, max_norm=runs.max_norm, seed=runs.seed)
    for name in runs.data_vars:
        wanted = same[name].transpose(*runs[name].dims).values[held]
        assert runs[name].values[held].tobytes() == wanted.tobytes(), name


def chaos(folder, rounds, seed=0, log=print):
    """Runs the rounds; returns what has happened, by kind."""
    quiet = trainings.run(space=space_of(100))
    start = time.perf_counter()
    with Chaos(folder, seed) as made:
        made.quiet = quiet
        for number in range(rounds):
            made.round()
            if number % 10 == 9:
                seconds = time.perf_counter() - start
                log(f"{number + 1} rounds, {seconds:.0f} s: {dict(made.seen)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        space = space_of(made.level)
        found = trainings.run(store=made.store, space=space)
        assert_same_bits(found, trainings.run(space=space))
        assert_same_bits(stabjax.runs.load(made.store), found)
    left = [p.name for p in made.store.rglob(".*")]
    assert not left, left
    return made.seen


def main():
    """Runs the long form."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        seen = chaos(folder, given.rounds, given.seed)
        sys.stdout.write(f"{dict(seen)}\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
