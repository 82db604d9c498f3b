"""Stores: what is kept, refused, extended, damaged, and read at any moment."""

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import optax
import pytest
import trainings
from trainings import assert_same_bits, chunk_files, make_optimizer, run, space

import stabjax
from stabjax._sweep import lock, planning
from stabjax._sweep import store as stores
from stabjax._sweep.program import Program


@pytest.fixture(scope="module")
def uninterrupted():
    with jax.numpy_dtype_promotion("strict"):
        return run()


@pytest.fixture
def kept(tmp_path):
    """A store of a finished sweep."""
    run(store=tmp_path / "runs")
    return tmp_path / "runs"


def test_a_store_changes_nothing(uninterrupted, tmp_path):
    runs = run(store=tmp_path / "a")
    assert_same_bits(runs, uninterrupted)
    loaded = stabjax.runs.load(str(tmp_path / "a"))
    assert_same_bits(loaded, uninterrupted)
    for name in ("problem", "optimizer", "steps", "chunk_size", "jax"):
        assert loaded.attrs[name] == uninterrupted.attrs[name]
    assert sorted(os.listdir(tmp_path / "a")) == ["chunks", "spec.json"]
    assert len(chunk_files(tmp_path / "a")) == 15


def test_the_spec_is_for_the_human_too(kept):
    spec = json.loads((kept / "spec.json").read_text())
    assert "def noisy" in spec["about"]["source"]["problem"]
    assert "with_metrics" in spec["about"]["source"]["make_optimizer"]
    assert spec["settings"]["steps"] == trainings.STEPS
    assert spec["numerics"]["jax"] == jax.__version__
    assert spec["groups"][0]["width"] == trainings.WIDTH
    assert len(spec["groups"][0]["program"]) == 64
    with np.load(kept / "chunks" / "000000.npz") as chunk:
        assert chunk["final_loss"].shape == (trainings.WIDTH,)


def test_a_source_file_that_was_changed_since_does_no_harm(tmp_path):
    """Edited while the program runs, or no Python at all, as a page of the docs."""
    page = tmp_path / "page.md"
    page.write_text('```python\nf = 1\n``` and "it\n')
    space = {}
    exec(compile("\n\ndef f():\n    pass\n", str(page), "exec"), space)
    assert "pass" not in (planning._source(space["f"]) or "")
    assert "def make_optimizer" in planning._source(make_optimizer)


def test_the_same_call_runs_exactly_the_holes(uninterrupted, kept):
    for number in (2, 7):
        (kept / "chunks" / f"{number:06d}.npz").unlink()
    before = chunk_files(kept)
    partly = stabjax.runs.load(kept)
    assert int((partly.status == -1).sum()) == 2 * trainings.WIDTH
    holes = partly.status == -1
    np.testing.assert_array_equal(partly.final_loss.isnull(), holes)
    np.testing.assert_array_equal(partly.diverged_at == -1, holes)

    runs = run(store=kept, chunk_size="auto")  # which takes the width of the store
    assert_same_bits(runs, uninterrupted)
    assert runs.attrs["chunk_size"] == trainings.WIDTH
    after = chunk_files(kept)
    assert len(after) == 15
    assert {name: after[name] for name in before} == before


def test_recordings_are_kept_too(tmp_path):
    runs = run(store=tmp_path, record_every=7)
    assert_same_bits(stabjax.runs.load(tmp_path), runs)
    assert runs.loss.sizes["step"] == 3
    (tmp_path / "chunks" / "000004.npz").unlink()
    partly = stabjax.runs.load(tmp_path)
    holes = partly.status == -1
    for name in ("loss", "clip_grad_norm", "clip_clipped"):  # the last is a yes or no
        missing = partly[name].isnull()
        np.testing.assert_array_equal(missing.any("step"), holes)
        np.testing.assert_array_equal(missing.all("step"), holes)
    assert partly.attrs["record_every"] == 7


def test_a_finished_sweep_runs_nothing(uninterrupted, kept):
    before = chunk_files(kept)
    spec = (kept / "spec.json").stat().st_mtime_ns
    runs = run(store=kept)
    assert_same_bits(runs, uninterrupted)
    assert runs.attrs["runs_per_second"] == 0
    assert chunk_files(kept) == before
    assert (kept / "spec.json").stat().st_mtime_ns == spec


def test_damage_is_found_and_run_again(uninterrupted, kept):
    files = sorted((kept / "chunks").iterdir())
    files[1].write_bytes(files[1].read_bytes()[:200])
    files[3].write_bytes(b"")
    content = bytearray(files[4].read_bytes())
    content[len(content) // 2] ^= 1
    files[4].write_bytes(content)
    files[6].write_bytes(files[5].read_bytes())  # a chunk of other trials
    damaged = {files[i].name for i in (1, 3, 4, 6)}
    with pytest.warns(RuntimeWarning, match="is damaged .* 4 trials") as caught:
        partly = stabjax.runs.load(kept)
    assert len(caught) == 4
    assert "npz is damaged (it belongs to another sweep)" in str(caught[3].message)
    assert int((partly.status == -1).sum()) == 16
    before = chunk_files(kept)
    with pytest.warns(RuntimeWarning, match="is damaged"):
        runs = run(store=kept)
    assert_same_bits(runs, uninterrupted)
    assert_same_bits(stabjax.runs.load(kept), uninterrupted)
    after = chunk_files(kept)
    assert {name for name in after if after[name] != before[name]} == damaged


def test_no_flipped_bit_is_taken_for_a_result(kept):
    file = kept / "chunks" / "000000.npz"
    content = file.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = stabjax.runs.load(kept)
        rng = np.random.default_rng(0)
        for position in rng.integers(0, len(content), 60):
            flipped = bytearray(content)
            flipped[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            found = stabjax.runs.load(kept)
            run = found.status != -1
            assert int(run.sum()) in (60, 56)
            for name in ("final_loss", "diverged_at", "size"):
                kept_values = expected[name].values[run.values]
                assert found[name].values[run.values].tobytes() == kept_values.tobytes()


def test_more_seeds_and_a_finer_axis_reuse_the_store(kept):
    before = chunk_files(kept)
    rates = np.linspace(0.01, 1.2, 10)
    rates = np.insert(rates, 4, [0.44, 0.45])
    wider = stabjax.grid(max_norm=[np.inf, 0.5, 1.0], seed=[3, 0, 1, 2], rate=rates)
    runs = run(store=kept, space=wider)
    assert_same_bits(runs.transpose(*wider_dims(wider)), run(space=wider))
    after = chunk_files(kept)
    assert {name: after[name] for name in before} == before
    trained = (len(wider) - len(space())) / trainings.WIDTH
    assert trained <= len(after) - len(before) <= trained + 4  # some are not full
    loaded = stabjax.runs.load(kept)
    np.testing.assert_array_equal(loaded.rate, rates)
    assert_same_bits(loaded.transpose(*wider_dims(wider)), run(space=wider))

    # Extended once more, and a hole of the first of the three.
    (kept / "chunks" / "000001.npz").unlink()
    widest = stabjax.grid(max_norm=[np.inf, 0.5, 1.0], seed=range(5), rate=rates)
    runs = run(store=kept, space=widest)
    assert_same_bits(runs.transpose(*wider_dims(widest)), run(space=widest))
    now = chunk_files(kept)
    assert {n: now[n] for n in after if n != "000001.npz"} == {
        n: after[n] for n in after if n != "000001.npz"
    }


def wider_dims(space):
    return [dimension.name for dimension in space.dimensions]


@pytest.mark.slow
def test_another_value_of_a_static_axis_is_another_program(tmp_path):
    def make(kind, rate):
        return {"sgd": optax.sgd, "half": lambda r: optax.sgd(r / 2)}[kind](rate)

    rates = [0.1, 0.2, 0.3]
    one = stabjax.grid(kind=["sgd"], rate=rates)
    two = stabjax.grid(kind=["half", "sgd"], rate=rates)
    call = partial(run, make_optimizer=make, chunk_size=2)
    call(space=one, store=tmp_path)
    before = chunk_files(tmp_path)
    runs = call(space=two, store=tmp_path)
    assert_same_bits(runs, call(space=two))
    after = chunk_files(tmp_path)
    assert (len(before), len(after)) == (2, 4)
    assert {name: after[name] for name in before} == before
    assert_same_bits(stabjax.runs.load(tmp_path), runs)


WITHOUT_SIZE = replace(trainings.PROBLEM, evaluate=None)


@pytest.mark.slow
def test_labels_of_all_kinds_come_back(tmp_path):
    def make(optimizer, flag, sizes, rate):
        return optimizer(rate * (0.5 if flag else 1.0) / sizes[0])

    axes = stabjax.grid(
        optimizer=[clipped], flag=[True], sizes=stabjax.static([[1], [2]])
    )
    numbers = stabjax.grid(rate=np.float32([0.1, 0.2]), seed=np.int8([3, 1]))
    both = type(axes)((*axes.dimensions, *numbers.dimensions))
    runs = run(make_optimizer=make, space=both, store=tmp_path, steps=2)
    loaded = stabjax.runs.load(tmp_path)
    assert_same_bits(loaded, runs)
    assert loaded.optimizer.values.tolist() == ["clipped"]
    assert loaded["sizes"].values.tolist() == ["[1]", "[2]"]
    assert loaded.attrs["programs"] == 2


def clipped(rate):
    return make_optimizer(rate, 1.0)


def test_the_same_values_in_another_type_are_the_same_trials(tmp_path):
    def call(rates, seeds):
        both = stabjax.grid(rate=rates, max_norm=[1.0], seed=seeds)
        return run(space=both, store=tmp_path, steps=2)

    call(np.float32([0.25, 0.5]), range(3))
    before = chunk_files(tmp_path)
    runs = call([0.25, 0.5], np.int8([2, 0, 1]))
    assert chunk_files(tmp_path) == before
    assert runs.attrs["runs_per_second"] == 0


def test_a_store_of_wide_numbers_is_read_without_them(tmp_path):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        space = stabjax.grid(rate=[1e-300, 0.1], max_norm=[1e300])
        runs = run(space=space, store=tmp_path, steps=2, problem=WITHOUT_SIZE)
    assert runs.final_loss.dtype == np.float64
    assert_same_bits(stabjax.runs.load(tmp_path), runs)


def other_optimizer(rate, max_norm):
    return make_optimizer(rate * 1.5, max_norm)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 21}, "contains another sweep: steps is 20 in the store and 21 here"),
        ({"record_every": 7}, "record_every is None in the store and 7 here"),
        (
            {"divergence_factor": np.inf},
            "factor is 1000.0 in the store and inf",
        ),
        ({"chunk_size": 5}, "chunk_size is 4 in the store and 5 here"),
        (
            {"make_optimizer": other_optimizer},
            "program differs because problem,",
        ),
        ({"problem": WITHOUT_SIZE}, "the program differs"),
        ({"space": space(seeds=2)}, "seed has no 2 here, but the store does"),
        ({"space": space(rates=9)}, "rate has no 0.1422.*, ... here"),
        (
            {"space": stabjax.grid(rate=[0.1], max_norm=[1.0])},
            "dimensions are rate",
        ),
    ],
)
def test_another_sweep_is_refused(kept, change, message):
    before = {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=message):
        run(store=kept, **change)
    assert {f: f.read_bytes() for f in kept.rglob("*") if f.is_file()} == before


def test_a_closure_that_changed_is_noticed(tmp_path):
    factor = 1.0

    def make(rate, max_norm):
        return make_optimizer(factor * rate, max_norm)

    run(store=tmp_path, make_optimizer=make, space=space(2, 1))
    (tmp_path / "chunks" / "000000.npz").unlink()
    factor = 2.0
    with pytest.raises(ValueError, match="or a value that they read has changed"):
        run(store=tmp_path, make_optimizer=make, space=space(2, 1))


def test_x64_is_another_sweep(kept):
    message = "jax_enable_x64 is False in the store and True here"
    with jax.enable_x64(True), pytest.raises(ValueError, match=message):
        run(store=kept)


def test_how_xla_compiles_is_a_part_of_the_sweep(kept, monkeypatch):
    flags = os.environ["XLA_FLAGS"]
    dump = "--xla_dump_to=a --xla_force_host_platform_device_count=3"
    monkeypatch.setenv("XLA_FLAGS", f"{flags} {dump}")
    run(store=kept)
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_cpu_enable_fast_math=true")
    with pytest.raises(
        ValueError, match="XLA_FLAGS is .*in the store and .*fast_math=true he"
    ):
        run(store=kept)


def test_a_store_of_a_newer_version(kept):
    spec = json.loads((kept / "spec.json").read_text())
    spec["format"], spec["about"]["stabjax"] = 99, "3.1.4"
    (kept / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match=r"written by stabjax 3\.1\.4.*Upgrade"):
        run(store=kept)
    with pytest.raises(ValueError, match=r"written by stabjax 3\.1\.4.*Upgrade"):
        stabjax.runs.load(kept)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_damaged_spec(uninterrupted, kept, text):
    (kept / "spec.json").write_text(text)
    with pytest.warns(
        RuntimeWarning, match=r"spec\.json .* is damaged .* Using its copy"
    ):
        assert_same_bits(run(store=kept), uninterrupted)  # which writes it again
    assert_same_bits(stabjax.runs.load(kept), uninterrupted)
    for name in ("spec.json", "chunks/spec.json"):
        (kept / name).write_text(text)
    with pytest.raises(ValueError, match=r"spec\.json in the store .* is damaged"):
        run(store=kept)


def test_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no store at"):
        stabjax.runs.load(tmp_path / "nothing")


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    for store in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(OSError, match="cannot .* the store .*(Not a dir|File ex)"):
            run(store=store)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_loses_nothing(uninterrupted, tmp_path, monkeypatch, code):
    written = []

    def fsync(descriptor):
        del descriptor
        written.append(None)
        if len(written) > 7:  # spec.json, its copy, five chunks
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="cannot write to the store .* same call"):
            run(store=tmp_path)
    assert len(chunk_files(tmp_path)) == 5
    assert not list((tmp_path / "chunks").glob(".*"))
    assert_same_bits(run(store=tmp_path), uninterrupted)


def test_a_finished_store_may_be_read_only(uninterrupted, kept, monkeypatch):
    def refuse(path, content):
        raise AssertionError(path)

    monkeypatch.setattr(stores, "write_atomically", refuse)
    assert_same_bits(run(store=kept), uninterrupted)


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_keeps_the_chunks_in_hand(uninterrupted, tmp_path, monkeypatch, capfd):
    """With one device and two batches ahead: the third result comes with two more."""
    write, written = stores.Store.write_chunk, []

    def interrupted(*args):
        write(*args)
        written.append(None)
        if len(written) == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(stores.Store, "write_chunk", interrupted)
        with pytest.raises(
            KeyboardInterrupt, match="20 of 60 trials .* Repeat the call"
        ):
            run(store=tmp_path)
    assert "Press Ctrl-C again to stop now" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(chunk_files(tmp_path)) == 5
    assert_same_bits(run(store=tmp_path), uninterrupted)


def test_the_bar_of_a_resumed_sweep_begins_where_it_stopped(kept, monkeypatch):
    (kept / "chunks" / "000009.npz").unlink()
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    run(store=kept)
    assert "56/60" in stream.getvalue()
    assert "60/60" in stream.getvalue()
    assert "diverged=" in stream.getvalue()


def test_parts_share_a_store_without_a_word(uninterrupted, tmp_path):
    first = run(store=tmp_path, part=(0, 3))
    assert int((first.status != -1).sum()) == 20
    assert len(chunk_files(tmp_path)) == 5
    run(store=tmp_path, part=(2, 3))
    last = run(store=tmp_path, part=(1, 3))
    assert_same_bits(last, uninterrupted)
    assert_same_bits(stabjax.runs.load(tmp_path), uninterrupted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"part": (3, 3), "store": "a"},
            r"must be a tuple \(i, n\).*got \(3, 3\)",
        ),
        ({"part": 3, "store": "a"}, r"must be a tuple \(i, n\).*got 3"),
        ({"part": (0, 2)}, "store must be given for part 0 of 2"),
    ],
)
def test_bad_parts(arguments, message):
    with pytest.raises(ValueError, match=message):
        run(**arguments)


def failing_above(limit):
    """An optimizer whose host callback raises for large rates, while it runs."""

    def make(rate):
        def on_host(value):
            if value > limit:
                raise ValueError("boom")
            return np.float32(value)

        def update(updates, state, params=None):
            del params
            shape = jax.ShapeDtypeStruct((), np.float32)
            found = jax.pure_callback(on_host, shape, rate, vmap_method="sequential")
            return -found * updates, state

        return optax.GradientTransformation(lambda w: optax.EmptyState(), update)

    return make


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("at", range(4))
def test_what_is_finished_when_a_chunk_fails_is_kept(tmp_path, at):
    rates = [0.1, 0.2, 0.3, 0.4]
    rates[at] = 0.9
    call = {
        "space": stabjax.grid(rate=rates),
        "problem": WITHOUT_SIZE,
        "chunk_size": 1,
        "steps": 5,
        "store": tmp_path,
    }
    with pytest.raises(jax.errors.JaxRuntimeError, match="boom"):
        run(make_optimizer=failing_above(0.5), **call)
    kept = {int(name[:6]) for name in chunk_files(tmp_path)}
    assert kept >= set(range(at))  # and those behind it that were running
    assert at not in kept


def test_a_lost_spec_is_written_again(uninterrupted, kept):
    before = chunk_files(kept)
    text = (kept / "spec.json").read_text()
    (kept / "spec.json").unlink()
    assert_same_bits(stabjax.runs.load(kept), uninterrupted)  # by its copy
    (kept / "chunks" / "spec.json").unlink()
    with pytest.raises(FileNotFoundError, match="no store"):
        stabjax.runs.load(kept)
    assert_same_bits(run(store=kept), uninterrupted)
    for name in ("spec.json", "chunks/spec.json"):
        assert (kept / name).read_text() == text
    assert chunk_files(kept) == before
    assert_same_bits(stabjax.runs.load(kept), uninterrupted)


def test_a_store_that_grew_survives_the_loss_of_its_spec(kept):
    """The numbers of its chunks follow from the order in which it grew."""
    runs = run(store=kept, space=space(seeds=5))
    before = chunk_files(kept)
    (kept / "spec.json").unlink()
    assert_same_bits(run(store=kept, space=space(seeds=5)), runs)
    assert chunk_files(kept) == before


@pytest.mark.parametrize("seeds", [3, 6], ids=["the same", "more"])
def test_two_jobs_that_start_together(uninterrupted, tmp_path, monkeypatch, seeds):
    """Another job makes the store after this one has found none."""
    write, calls = stores.Store.write_plan, []

    def late(store, plan):
        calls.append(None)
        if len(calls) == 1:
            run(store=tmp_path, space=space(seeds=3))
        return write(store, plan)

    with monkeypatch.context() as patch:
        patch.setattr(stores.Store, "write_plan", late)
        runs = run(store=tmp_path, space=space(seeds=seeds))
    assert_same_bits(runs, run(space=space(seeds=seeds)))
    assert_same_bits(runs.sel(seed=range(3)), uninterrupted)
    assert_same_bits(stabjax.runs.load(tmp_path), runs)


def test_a_job_with_fewer_values_does_not_take_over_a_store(tmp_path, monkeypatch):
    write, calls = stores.Store.write_plan, []

    def late(store, plan):
        calls.append(None)
        if len(calls) == 1:
            run(store=tmp_path, space=space(seeds=3))
        return write(store, plan)

    monkeypatch.setattr(stores.Store, "write_plan", late)
    with pytest.raises(ValueError, match="seed has no 2 here, but the store does"):
        run(store=tmp_path, space=space(seeds=2))
    assert (stabjax.runs.load(tmp_path).status != -1).all()


def held(path, order, name):
    with lock.locked(path):
        order.append(name)
        time.sleep(0.05)
        order.append(name)


def test_a_lock_is_waited_for(tmp_path):
    path, order = tmp_path / ".spec.lock", []
    threads = [threading.Thread(target=held, args=(path, order, i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2]
    assert not path.exists()


def a_dead_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def lock_of(host, process):
    return lambda path: path.write_text(json.dumps({"host": host, "process": process}))


@pytest.mark.parametrize(
    ("abandon", "is_certain"),
    [
        (lambda path: lock_of(socket.gethostname(), a_dead_process())(path), True),
        (lock_of("elsewhere", 1), False),
        (lock_of(socket.gethostname(), os.getpid()), False),  # of a thread, perhaps
        (lambda path: path.write_text(""), False),
        (lambda path: path.write_text("[" * 4000), False),
        (os.mkfifo, False),
        (lambda path: path.symlink_to("nothing"), False),
    ],
    ids=["dead", "elsewhere", "mine", "empty", "deep", "pipe", "link"],
)
@pytest.mark.parametrize("clock", [-1e6, 0.0, 1e6])
def test_a_lock_outlives_its_owner_by_half_a_minute(
    tmp_path, monkeypatch, abandon, is_certain, clock
):
    """By the clock of the one who waits: those of files and hosts may be wrong."""
    path, order, slept = tmp_path / ".spec.lock", [], []
    abandon(path)
    if path.is_file():
        os.utime(path, (time.time() + clock, time.time() + clock))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + len(slept))
    monkeypatch.setattr(time, "sleep", slept.append)
    held(path, order, 5)
    assert order == [5, 5]
    assert not list(tmp_path.iterdir())
    assert (len(slept) < 5) == is_certain


def test_what_killed_writers_left_is_removed(kept):
    """By the process on this host, elsewhere by the age of the file."""
    host, mine, dead = socket.gethostname(), os.getpid(), a_dead_process()
    host = host.replace(".", "_")
    old, new = time.time() - 1e6, time.time()
    files = {
        f".spec.json.{host}-{dead}.abc": (new, False),
        f"chunks/.000001.npz.{host}-{dead}.abc": (new, False),
        f"chunks/.000001.npz.{host}-{mine}.abc": (old, True),
        "chunks/.000001.npz.elsewhere-1.abc": (new, True),
        "chunks/.000002.npz.elsewhere-1.abc": (old, False),
        "chunks/.000002.npz.abc": (old, False),  # of version 0.1
        "chunks/.hidden": (old, True),
    }
    for name, (time_of, _) in files.items():
        (kept / name).write_bytes(b"partial")
        os.utime(kept / name, (time_of, time_of))
    run(store=kept)
    assert {n: (kept / n).exists() for n in files} == {
        n: stays for n, (_, stays) in files.items()
    }


@pytest.fixture
def upgraded(monkeypatch):
    """Another version of JAX, which makes other programs of the same functions."""
    about, fingerprint = planning._numerics, Program.fingerprint
    monkeypatch.setattr(
        planning, "_numerics", lambda device: {**about(device), "jax": "99.0"}
    )
    monkeypatch.setattr(
        Program, "fingerprint", lambda *args: f"new {fingerprint(*args)}"
    )


def versions_of(kept):
    found = {}
    for file in (kept / "chunks").glob("0*.npz"):
        with zipfile.ZipFile(file) as archive:
            found[file.name] = json.loads(archive.comment)["versions"]["jax"]
    return found


def test_a_store_grows_across_versions_if_that_is_accepted(
    uninterrupted, kept, request
):
    (kept / "chunks" / "000003.npz").unlink()
    before = chunk_files(kept)
    request.getfixturevalue("upgraded")
    with pytest.raises(ValueError, match=r"jax is .* and 99\.0 here.* Pass accept_v"):
        run(store=kept)
    assert chunk_files(kept) == before
    for _ in range(2):
        runs = run(store=kept, space=space(seeds=4), accept_versions=True)
    assert_same_bits(runs.sel(seed=range(3)), uninterrupted)
    after = chunk_files(kept)
    assert {name: after[name] for name in before} == before
    made = versions_of(kept)
    assert {name for name in made if made[name] == jax.__version__} == {*before}
    assert len(made) - len(before) == 6  # the hole and the new seed
    for opened in (runs, stabjax.runs.load(kept)):
        assert f"jax {jax.__version__}" in opened.attrs["earlier_versions"]
        assert opened.attrs["jax"] == "99.0"

    run(store=kept, space=space(seeds=4))  # accepted once, known from then on
    request.getfixturevalue("monkeypatch").undo()
    with pytest.raises(ValueError, match=r"jax is 99\.0 in .* Pass accept_versions"):
        run(store=kept, space=space(seeds=4))
    run(store=kept, space=space(seeds=4), accept_versions=True)
    assert chunk_files(kept) == after
    run(store=kept, space=space(seeds=5), accept_versions=True)
    earlier = stabjax.runs.load(kept).attrs["earlier_versions"]
    assert "jax 99.0" in earlier and f"jax {jax.__version__}" in earlier


def test_another_problem_is_refused_though_versions_are_accepted(kept):
    with pytest.raises(ValueError, match="the program differs because problem"):
        run(store=kept, problem=WITHOUT_SIZE, accept_versions=True)


def test_another_version_of_optax_is_named(kept, monkeypatch):
    monkeypatch.setattr(optax, "__version__", "99.0")
    before = chunk_files(kept)
    run(store=kept)  # the program is the same
    with pytest.raises(
        ValueError, match=r"optax is .* and 99\.0 here.*accept_versions"
    ):
        run(store=kept, problem=WITHOUT_SIZE)
    assert chunk_files(kept) == before


def test_a_warning_points_at_the_line_of_the_user(kept):
    (kept / "chunks" / "000002.npz").write_bytes(b"")
    for call in (lambda: stabjax.runs.load(kept), lambda: run(store=kept)):
        with pytest.warns(RuntimeWarning, match="is damaged") as caught:
            call()
        assert caught[0].filename in (__file__, trainings.__file__)


def test_integers_extended_by_fractions_are_named(tmp_path, standard_promotion):
    def sgd(rate):
        return optax.sgd(rate)

    problem = stabjax.problems.quadratic()
    stabjax.sweep(problem, sgd, stabjax.grid(rate=[1, 2]), steps=5, store=tmp_path)
    with pytest.raises(ValueError, match="values of axis 'rate' are int.* and float"):
        space = stabjax.grid(rate=[1, 2, 0.5])
        stabjax.sweep(problem, sgd, space, steps=5, store=tmp_path)
