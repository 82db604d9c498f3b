"""What a sweep needs is said before it starts, and refused if it cannot fit."""

import tracemalloc

import numpy as np
import pytest
import trainings
from scipy.stats import loguniform
from trainings import run

import stabjax
from stabjax._sweep import free_memory

WIDE = {"rate": range(1000), "max_norm": range(1000), "seed": range(1000)}


@pytest.fixture(autouse=True)
def two_gigabytes(monkeypatch):
    monkeypatch.setattr(free_memory, "free_bytes", lambda: 2 * 10**9)


TOO_LARGE = {
    "a grid": (
        lambda: run(space=stabjax.grid(**WIDE)),
        "1,000,000,000 trials need 76 GB, but only 2.0 GB of memory is free: take "
        "fewer than 1,000 values of 'rate'",
    ),
    "a product": (
        lambda: stabjax.sample(10**5, 0, a=[1, 2]) * stabjax.sample(10**5, 1, b=[1, 2]),
        "100,000 x 100,000 trials need 320 GB, but only 2.0 GB .*combine fewer",
    ),
    "a sample": (
        lambda: stabjax.sample(10**9, 0, rate=loguniform(1e-3, 1)),
        "1,000,000,000 trials of 1 axes need 24 GB.* sample fewer trials",
    ),
    "an axis": (
        lambda: stabjax.grid(rate=range(10**9)),
        "The 1,000,000,000 values of axis 'rate' need 72 GB.* take fewer",
    ),
    "recordings": (
        lambda: run(
            space=stabjax.grid(rate=np.arange(1e3), max_norm=[1.0], seed=range(100)),
            steps=10_000,
            record_every=1,
            chunk_size="auto",
        ),
        r"results of 100,000 trials need .* GB.* record less often \(record_every\), "
        "or take fewer than 1,000 values of 'rate'",
    ),
    "a chunk": (
        lambda: run(
            space=stabjax.grid(rate=np.arange(60.0), max_norm=[1.0]),
            steps=10**6,
            record_every=1,
            chunk_size=60,
        ),
        r"Chunks of 60 trials need .* GB, .* pass chunk_size=30 or less",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_cannot_fit_is_refused_before_it_starts(name):
    call, message = TOO_LARGE[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_nothing_is_stored_of_what_cannot_fit(tmp_path):
    with pytest.raises(ValueError, match="results of .* need"):
        run(steps=10**7, record_every=1, store=tmp_path / "a", chunk_size=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (76e9, "76 GB"), (2**80, "1,2")],
)
def test_bytes_are_readable(size, text):
    assert free_memory.readable(size).startswith(text)


def test_the_free_memory_is_that_of_the_machine_or_of_the_container(
    monkeypatch, tmp_path
):
    monkeypatch.undo()
    known = free_memory.free_bytes()
    assert 2**26 < known < 2**50
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    (tmp_path / "memory.current").write_text(f"{2**19}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {2**18}\n")
    monkeypatch.setattr(free_memory, "_CGROUP", tmp_path)
    assert free_memory.free_bytes() == 2**20 - 2**19 + 2**18
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory.free_bytes() > 2**26


@pytest.mark.slow
def test_a_dry_run_of_many_programs_compiles_some(monkeypatch):
    compiled, make = [], trainings.make_optimizer
    compile_one = stabjax._sweep.program.compiled_for

    def counted(*args):
        compiled.append(None)
        return compile_one(*args)

    monkeypatch.setattr(stabjax._sweep.program, "compiled_for", counted)
    space = stabjax.grid(
        rate=[0.1, 0.2], scale=stabjax.static(list(np.linspace(0.1, 1.0, 5)))
    )
    runs = run(
        make_optimizer=lambda rate, scale: make(rate * scale, 1.0),
        space=space,
        dry_run=True,
        chunk_size=2,
    )
    assert len(compiled) == runs.attrs["compiled_programs"] == 3
    assert runs.attrs["programs"] == 5
    assert runs.attrs["expected_compile_seconds"] > 0
    assert runs.attrs["expected_seconds"] > 0
    assert runs.attrs["expected_host_bytes"] > runs.attrs["expected_result_bytes"]


@pytest.mark.slow
def test_curves_are_stored_while_a_sweep_runs(tmp_path):
    """Besides the results, memory holds a few chunks, however many there are."""
    space = stabjax.grid(
        rate=np.linspace(0.01, 1.2, 1000), max_norm=[1.0, np.inf], seed=range(4)
    )
    stored, chunks = [], tmp_path / "store" / "chunks"

    def count(chunk):
        del chunk
        stored.append(len(list(chunks.glob("*.npz"))))

    tracemalloc.start()
    try:
        runs = run(
            space=space,
            chunk_size=200,
            steps=1000,
            record_every=1,
            store=tmp_path / "store",
            on_chunk=count,
        )
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stored == list(range(1, 41))
    assert runs.loss.nbytes == 4 * len(space) * 1000
    assert runs.nbytes < used < (1.1 + 12 / 40) * runs.nbytes


def test_memory_is_what_was_said():
    """Of NumPy's arrays; benchmarks/sweep_memory.py measures the whole process."""
    space = stabjax.grid(
        rate=np.linspace(0.01, 1.2, 1000), max_norm=[1.0, np.inf], seed=range(50)
    )
    call = {"space": space, "chunk_size": 5000, "steps": 2}
    said = run(dry_run=True, **call).attrs["expected_host_bytes"]
    tracemalloc.start()
    try:
        run(**call)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said / 4 < used < 1.3 * said
