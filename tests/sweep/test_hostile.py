"""Stores from elsewhere: whatever they hold, a clear sentence and little memory."""

import io
import json
import os
import pickle
import random
import re
import socket
import tracemalloc
import warnings
import zipfile

import jax
import numpy as np
import pytest
from trainings import WIDTH, run, space

import stabjax
from stabjax._sweep.archive import _checksum

TRIALS = 8  # in two chunks
CHUNK = "000001.npz"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The files of a store, the variables of a chunk, and what `load` allocates."""
    folder = tmp_path_factory.mktemp("honest")
    with jax.numpy_dtype_promotion("strict"):
        run(store=folder, space=space(rates=4, seeds=1), record_every=1)
    stabjax.runs.load(folder)  # imports
    files = {
        file.relative_to(folder): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    with np.load(folder / "chunks" / CHUNK) as chunk:
        variables = dict(chunk)
    with zipfile.ZipFile(folder / "chunks" / CHUNK) as archive:
        about = json.loads(archive.comment)
    return files, variables, about, allocated(lambda: stabjax.runs.load(folder))


@pytest.fixture
def store(honest, tmp_path):
    folder = tmp_path / "store"
    (folder / "chunks").mkdir(parents=True)
    for name, content in honest[0].items():
        (folder / name).write_bytes(content)
    return folder


def allocated(call):
    """The largest memory that a call holds at one moment."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Payload:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def rewritten(path, variables, about, method=zipfile.ZIP_STORED, names=None, raw=None):
    """A chunk with a right identity and a right checksum."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, values in variables.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, values, allow_pickle=True)
            data = (raw or {}).get(name, member.getvalue())
            archive.writestr((names or {}).get(name, f"{name}.npy"), data)
        if not any(values.dtype.hasobject for values in variables.values()):
            about = {**about, "checksum": _checksum(variables)}
        archive.comment = json.dumps(about).encode()
    path.write_bytes(content.getvalue())


def header(shape, descr="<f4", fortran=False, version=(1, 0)):
    member = io.BytesIO()
    about = {"descr": descr, "fortran_order": fortran, "shape": shape}
    write = getattr(np.lib.format, f"write_array_header_{version[0]}_0")
    write(member, about)
    return member.getvalue()


def variable(**changes):
    """One variable of a chunk becomes something else; the checksum is right."""

    def change(path, variables, about):
        made = {name: make(variables.get(name)) for name, make in changes.items()}
        rewritten(path, {**variables, **made}, about)

    return change


def raw_member(data):
    """The bytes of one member, behind the checksum of what was there."""

    def change(path, variables, about):
        rewritten(path, variables, about, raw={"final_loss": data})

    return change


def comment(text):
    def change(path, variables, about):
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = text

    return change


def bytes_are(content):
    return lambda path, variables, about: path.write_bytes(content)


def instead(make):
    """Something else than a regular file."""

    def change(path, variables, about):
        path.unlink()
        make(path)

    return change


def a_socket(path):
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(2**40)


def bomb(path, variables, about):
    big = {**variables, "final_loss": np.zeros(2**24, np.float32)}
    rewritten(path, big, about, zipfile.ZIP_DEFLATED)


def without(path, variables, about):
    rewritten(path, {n: v for n, v in variables.items() if n != "size"}, about)


def twice(path, variables, about):
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("final_loss.npy", b"")


def renamed(name):
    def change(path, variables, about):
        rewritten(path, variables, about, names={"final_loss": name})

    return change


def encrypted(path, variables, about):
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + at] |= 1
    path.write_bytes(content)


def payload(path, variables, about):
    objects = np.array([Payload(path.with_name("owned"))] * WIDTH, object)
    rewritten(path, {**variables, "final_loss": objects}, about)


def prefixed(path, variables, about):
    path.write_bytes(b"#!/bin/sh\n" * 20_000 + path.read_bytes())


def of_another(path, variables, about):
    rewritten(path, variables, {**about, "identity": "0" * 64})


def a_member_of(size):
    def change(path, variables, about):
        data = header((WIDTH,)) + bytes(size)
        rewritten(path, variables, about, raw={"final_loss": data})

    return change


CHUNKS = {
    "one more variable": variable(more=lambda v: np.zeros(3)),
    "one less": without,
    "the same twice": twice,
    "more trials": variable(final_loss=lambda v: np.tile(v, 3)),
    "many more trials": variable(final_loss=lambda v: np.tile(v, 2**20)),
    "fewer trials": variable(final_loss=lambda v: v[:-1]),
    "no trials": variable(final_loss=lambda v: v[:0]),
    "more dimensions": variable(final_loss=lambda v: v[:, None]),
    "no dimension": variable(final_loss=lambda v: v[0]),
    "longer recordings": variable(loss=lambda v: np.tile(v, 1000)),
    "wider numbers": variable(final_loss=lambda v: v.astype(np.float64)),
    "integers": variable(final_loss=lambda v: np.zeros(WIDTH, np.int32)),
    "complex numbers": variable(final_loss=lambda v: v.astype(np.complex64)),
    "the other end first": variable(final_loss=lambda v: v.astype(">f4")),
    "text": variable(final_loss=lambda v: np.full(WIDTH, "a" * 1000)),
    "records": variable(final_loss=lambda v: v.view([("a", "f4")])),
    "dates": variable(final_loss=lambda v: np.zeros(WIDTH, "M8[s]")),
    "a pickle": payload,
    "a bare pickle": bytes_are(pickle.dumps(Payload("owned"))),
    "a pickle as a member": raw_member(pickle.dumps(Payload("owned"))),
    "a zip bomb": bomb,
    "a header of a trillion": raw_member(header((10**12,)) + bytes(16)),
    "a header that overflows": raw_member(header((2**62, 2**62)) + bytes(16)),
    "a negative header": raw_member(header((-4,)) + bytes(16)),
    "a header of objects": raw_member(header((WIDTH,), "|O") + bytes(16)),
    "a long header": raw_member(b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535),
    "another order": raw_member(header((WIDTH,), fortran=True) + bytes(16)),
    "another format": raw_member(header((WIDTH,), version=(2, 0)) + bytes(16)),
    "a short member": a_member_of(15),
    "a long member": a_member_of(17),
    "a very long member": a_member_of(2**24),
    "no member": raw_member(b""),
    "a path upwards": renamed("../../../final_loss.npy"),
    "an absolute path": renamed("/tmp/final_loss.npy"),
    "a password": encrypted,
    "no comment": comment(b""),
    "a comment that is no JSON": comment(b"{"),
    "a comment that is a list": comment(b"[1, 2]"),
    "a deep comment": comment(b"[" * 60_000),
    "a comment of numbers": comment(b'{"identity": 1, "checksum": 2}'),
    "another identity": of_another,
    "a script in front": prefixed,
    "text for an archive": bytes_are(b"hello" * 100),
    "nothing": bytes_are(b""),
    "a pipe": instead(os.mkfifo),
    "a folder": instead(os.mkdir),
    "a socket": instead(a_socket),
    "a link to a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": instead(lambda path: path.symlink_to(path.name)),
    "a link to nothing": instead(lambda path: path.symlink_to("nothing")),
    "a link to a secret": instead(lambda path: path.symlink_to("/etc/hostname")),
    "a terabyte": instead(sparse),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_hostile_chunk(honest, store, name, monkeypatch):
    _, variables, about, memory = honest
    monkeypatch.chdir(store)
    CHUNKS[name](store / "chunks" / CHUNK, variables, about)
    message = rf"{CHUNK} is damaged \(.{{10,220}}\). Its 4 trials count as not run"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        used = allocated(lambda: store_is_half_full(store))
    assert [warning.filename for warning in caught] == [__file__]
    assert used < 2 * memory
    assert not list(store.rglob("owned"))


def store_is_half_full(store):
    runs = stabjax.runs.load(store)
    assert int((runs.status != -1).sum()) == TRIALS - WIDTH


def entry(*path, value):
    """A change of one entry of a spec."""

    def change(spec):
        *parents, last = path
        part = spec
        for parent in parents:
            part = part[parent]
        part[last] = value

    return change


AXIS = ("dimensions", 0, "axes", 0)
GROUP = ("groups", 0)
LOSS = (*GROUP, "variables", "loss")

SPECS = {
    "a trillion trials": entry(
        "dimensions",
        value=[
            {
                "name": name,
                "numbers": None,
                "order": [*range(1000)],
                "axes": [{"name": name, "dtype": "<f8", "values": [*range(1000)]}],
            }
            for name in "abcd"
        ],
    ),
    "a quadrillion steps": entry("settings", "steps", value=10**15),
    "a quadrillion evaluations": lambda spec: spec["settings"].update(
        steps=10**15, record_every=10**14, evaluate_every=1
    ),
    "an unknown engine": entry("groups", 0, "engine", value=["vmap"]),
    "rules of rules": entry("settings", "stop", value=[["a"], {}]),
    "no step": entry("settings", "steps", value=0),
    "half a step": entry("settings", "steps", value=0.5),
    "infinite steps": entry("settings", "steps", value="Infinity"),
    "records at every half": entry("settings", "record_every", value=0.5),
    "records nowhere": entry("settings", "record_every", value=0),
    "records at another rate": entry("settings", "record_every", value=7),
    "rungs that fall": entry("settings", "rungs", value=[20, 10]),
    "rungs of text": entry("settings", "rungs", value=["a"]),
    "rungs without eta": entry("settings", "rungs", value=[10, 20]),
    "an unknown setting": entry("settings", "more", value=1),
    "settings of a list": entry("settings", value=[]),
    "a variable of 2 ** 60": entry(*LOSS, value=["float32", [2**60]]),
    "a variable of two dimensions": entry(*LOSS, value=["float32", [20, 20]]),
    "a variable of no size": entry(*LOSS, value=["float32", [-20]]),
    "a variable of objects": entry(*LOSS, value=["object", [20]]),
    "a variable of records": entry(*LOSS, value=["V1000000", [20]]),
    "a variable of text": entry(*LOSS, value=["U1000000", [20]]),
    "a variable without a type": entry(*LOSS, value=[None, []]),
    "a variable with the name of an axis": entry(
        *GROUP, "variables", "rate", value=["float32", []]
    ),
    "no variables": entry(*GROUP, "variables", value={}),
    "a width of nothing": entry(*GROUP, "width", value=0),
    "a width of text": entry(*GROUP, "width", value="4"),
    "a seed that may be shared": entry(*GROUP, "shared_seed", value="maybe"),
    "no groups": entry("groups", value=[]),
    "no dimensions": entry("dimensions", value=[]),
    "an axis twice": entry("dimensions", 1, "axes", 0, "name", value="rate"),
    "an axis with the name of a result": entry(*AXIS, "name", value="final_loss"),
    "an axis that is a path": entry(*AXIS, "name", value="../../rate"),
    "an axis without a name": entry(*AXIS, "name", value=None),
    "an axis of text": entry(*AXIS, "values", value=["a"] * 4),
    "an axis of objects": entry(*AXIS, "dtype", value="O"),
    "an axis of bytes": entry(*AXIS, "dtype", value="S1000000000"),
    "an axis of code": entry(
        *AXIS, value={"name": "rate", "static": ["a"] * 4, "literal": "print('a')"}
    ),
    "an axis of deep code": entry(
        *AXIS, value={"name": "rate", "static": ["a"] * 4, "literal": "[" * 10_000}
    ),
    "a short axis": entry(*AXIS, "values", value=[0.1]),
    "seeds of text": entry(
        "dimensions",
        2,
        "axes",
        0,
        value={"name": "seed", "static": ["a"], "literal": "['a']"},
    ),
    "sizes of another space": entry("sizes", value=[[4, 2, 9]]),
    "sizes that fall": entry("sizes", value=[[5, 2, 1], [4, 2, 1]]),
    "no sizes": entry("sizes", value=[]),
    "an order of one": entry("dimensions", 0, "order", value=[0, 0, 0, 0]),
    "an order of a trillion": entry("dimensions", 0, "order", value=[0, 1, 2, 10**12]),
    "no numerics": entry("numerics", value=None),
    "no platform": entry("numerics", value={}),
    "nothing about it": entry("about", value=[]),
    "a format of text": entry("format", value="new"),
}
TEXTS = {
    "an array in an array": b"[" * 100_000,
    "another encoding": b"\xff\xfe{}",
    "a number of a million digits": b'{"format": ' + b"9" * 10**6 + b"}",
    "infinity": b'{"format": 1e999}',
    "null": b"null",
}
SPEC_FILES = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a terabyte": sparse,
    "a link": lambda path: path.symlink_to("/etc/hostname"),
}
DAMAGED = r"(?s)(spec\.json in )?the store '.*store' (is damaged|cannot be opened)"


@pytest.mark.parametrize("name", [*SPECS, *TEXTS, *SPEC_FILES])
def test_a_hostile_spec(honest, store, name):
    files = [store / "spec.json", store / "chunks" / "spec.json"]
    for file in files:
        spec = json.loads(file.read_text())
        if name in SPECS:
            SPECS[name](spec)
            file.write_text(json.dumps(spec))
        elif name in TEXTS:
            file.write_bytes(TEXTS[name])
        else:
            file.unlink()
            SPEC_FILES[name](file)
    size = sum(min(file.lstat().st_size, 2**20) for file in files)
    assert allocated(lambda: refused(store)) < 2 * honest[3] + 24 * size


def refused(store):
    with pytest.raises(ValueError, match=DAMAGED) as caught:
        stabjax.runs.load(store)
    assert len(str(caught.value)) < 500
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize("seed", range(2))
def test_fuzzed_specs(honest, store, seed):
    """Entries of the JSON become other values at random."""
    rng = random.Random(seed)
    files, _, _, memory = honest
    others = [None, True, -1, 0, 3, 1e300, "", "a", [], {}, [1], "Infinity", 2**70]
    for _ in range(60):
        spec = json.loads(files[next(f for f in files if f.name == "spec.json")])
        place = spec
        while True:
            keys = [*range(len(place))] if isinstance(place, list) else [*place]
            key = rng.choice(keys)
            if not isinstance(place[key], (list, dict)) or not place[key]:
                break
            if rng.random() < 0.2:
                break
            place = place[key]
        place[key] = rng.choice(others)
        for name in ("spec.json", "chunks/spec.json"):
            (store / name).write_text(json.dumps(spec))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                used = allocated(lambda: stabjax.runs.load(store))
            except ValueError as error:
                assert re.search(DAMAGED, str(error)) or "Upgrade" in str(error)
                continue
        assert used < 2 * memory
        assert all("is damaged" in str(w.message) for w in caught)
