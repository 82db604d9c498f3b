"""The battery: what every public transformation must be able to do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from battery import FUNCTIONS, SCHEDULES, TRANSFORMATIONS
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import stabjax

rows = pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] * row.slow) for row in TRANSFORMATIONS],
    ids=str,
)
STEPS = 3


def tree_of(seed, dtype="float32", magnitude=1.0, steps=()):
    rng = np.random.default_rng(seed)
    shapes = {"w": (8, 2), "s": ()}
    return {
        name: jnp.asarray(magnitude * rng.normal(size=(*steps, *shape)), dtype)
        for name, shape in shapes.items()
    }


PARAMS = tree_of(0)
# From step to step the gradient doubles: what learns from the past must act.
GRADS = jax.tree.map(
    lambda g: jnp.stack([x * 2**i for i, x in enumerate(g)]),
    tree_of(1, steps=(STEPS,)),
)
FIRST = jax.tree.map(lambda g: g[0], GRADS)


def numbers_of(row):
    return {name: jnp.float32(value) for name, value in row.numbers.items()}


def run(make, numbers, grads, params, **extra):
    """All updates, one for each step, and the last state: init, then a scan."""
    transformation = make(**numbers)

    def step(state, updates):
        updates, state = transformation.update(updates, state, params, **extra)
        return state, updates

    state, updates = jax.lax.scan(step, transformation.init(params), grads)
    return updates, state


def history(row, grads):
    """What a row sees before its numbers tell, and these gradients at last."""
    sizes = (*row.before, 1.0)
    return jax.tree.map(lambda g: jnp.stack([g * size for size in sizes]), grads)


@functools.cache
def compiled(row_id):
    """The one program of a row that most checks share, and its count of traces."""
    (row,) = (row for row in TRANSFORMATIONS if str(row) == row_id)
    traces = []

    def counted(numbers, grads, params):
        traces.append(row_id)
        return run(row.make, numbers, grads, params, **row.extra)

    return jax.jit(counted), traces


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual, expected, rtol=1e-6):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol, 1e-7), actual, expected
    )


def finite(tree):
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))


def test_every_public_name_has_a_row():
    of_sweeps = {*stabjax._HOMES["_sweep"], *stabjax._MODULES}
    classes = {name for name in stabjax.__all__ if name[0].isupper()}
    has_a_row = {row.name for row in [*TRANSFORMATIONS, *SCHEDULES]}
    assert has_a_row | FUNCTIONS | of_sweeps | classes == set(stabjax.__all__)
    for table in (TRANSFORMATIONS, SCHEDULES):
        assert len({str(row) for row in table}) == len(table)


@rows
@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32"))
def test_dtypes_shapes_and_structure_stay(row, dtype):
    """By abstract evaluation: the scan itself insists on a fixed state."""
    grads, params = tree_of(1, dtype, steps=(STEPS,)), tree_of(0, dtype)
    transformation = row.make(**row.numbers)
    updates, state = jax.eval_shape(
        functools.partial(run, row.make, **row.extra), numbers_of(row), grads, params
    )

    def described(tree):
        return jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), tree)

    assert described(updates) == described(grads)
    assert described(state) == described(transformation.init(params))
    # Gradients in half precision beside float32 parameters, too.
    mixed = jax.eval_shape(
        functools.partial(run, row.make, **row.extra), numbers_of(row), grads, PARAMS
    )
    assert described(mixed[0]) == described(grads)


@rows
def test_it_does_something(row):
    updates, _ = compiled(str(row))[0](numbers_of(row), GRADS, PARAMS)
    assert finite(updates)
    assert any(np.any(updates[name] != GRADS[name]) for name in GRADS)


@rows
def test_jit_equals_eager(row):
    transformation = row.make(**row.numbers)
    state, eager = transformation.init(PARAMS), []
    for step in range(STEPS):
        grads = jax.tree.map(lambda g: g[step], GRADS)  # noqa: B023
        updates, state = transformation.update(grads, state, PARAMS, **row.extra)
        eager.append(updates)
    eager = jax.tree.map(lambda *xs: jnp.stack(xs), *eager)
    jitted = compiled(str(row))[0](numbers_of(row), GRADS, PARAMS)
    # Within two roundings: XLA sums in another order when it fuses.
    assert_close(jitted, (eager, state), rtol=2.5e-7)


@rows
@pytest.mark.slow
def test_vmap_over_each_number_equals_the_loop(row):
    """One batch of three values of each number; compiled once."""
    program, _ = compiled(str(row))
    points = [
        numbers_of(row) | {name: jnp.float32(value * factor)}
        for name, value in row.numbers.items()
        for factor in (0.25, 1.0, 4.0)
    ]
    batch = jax.tree.map(lambda *values: jnp.stack(values), *points)
    over_numbers = jax.vmap(
        functools.partial(run, row.make, **row.extra), (0, None, None)
    )
    batched = jax.jit(over_numbers)(batch, GRADS, PARAMS)
    for i, point in enumerate(points):
        one = program(point, GRADS, PARAMS)
        assert_close(jax.tree.map(lambda x: x[i], batched), one)  # noqa: B023


@rows
def test_one_trace_for_all_numbers(row):
    program, traces = compiled(str(row))
    for factor in (0.5, 1.0, 2.0):
        numbers = {k: jnp.float32(v * factor) for k, v in row.numbers.items()}
        program(numbers, GRADS, PARAMS)
    assert traces == [str(row)]


@rows
@pytest.mark.slow
def test_gradients_through_it_are_finite(row):
    """By every number, by the gradients and the parameters; whatever they are."""

    @jax.jit
    def slopes(*arguments):
        def total(numbers, grads, params):
            updates, _ = run(
                row.make, numbers, history(row, grads), params, **row.extra
            )
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates))

        return jax.grad(total, (0, 1, 2))(*arguments)

    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    for magnitude in (1, 0, 1e-30, 1e30):
        grads = jax.tree.map(lambda g: g * magnitude, FIRST)  # noqa: B023
        found = slopes(numbers_of(row), grads, PARAMS)
        assert finite(found) and finite(slopes(numbers_of(row), grads, zero))
        if magnitude == 1:
            assert all((found[0][n] == 0) == (n in row.decides) for n in found[0])


@rows
@pytest.mark.slow
def test_it_composes(row, standard_promotion):
    """With Optax's wrappers; each gives what the transformation alone would give."""
    tx = row.make(**row.numbers)
    labels = {"w": "some", "s": "none"}
    groups = {"some": tx, "none": optax.identity()}
    injected = optax.inject_hyperparams(row.make, static_args=row.static)
    wrapped = {
        "alone": tx,
        "chain": optax.chain(tx, optax.scale(-2.0)),
        "masked": optax.masked(tx, {"w": True, "s": False}),
        "partition": optax.partition(groups, labels),
        "inject_hyperparams": injected(**row.numbers),
        "MultiSteps": optax.MultiSteps(tx, 2),
    }

    @jax.jit
    def all_of_them(grads, params):
        seen = history(row, grads)
        twice = jax.tree.map(lambda g: jnp.repeat(g, 2, axis=0), seen)

        def last_update(name, tx):
            grads = twice if name == "MultiSteps" else seen
            updates, _ = run(lambda: tx, {}, grads, params, **row.extra)
            return jax.tree.map(lambda u: u[-1], updates)

        return {name: last_update(name, tx) for name, tx in wrapped.items()}

    got = all_of_them(FIRST, PARAMS)
    assert_close(got["inject_hyperparams"], got["alone"])
    assert_close(got["MultiSteps"], got["alone"])
    assert_close(got["chain"], jax.tree.map(lambda u: -2 * u, got["alone"]))
    assert_close(got["partition"], got["masked"])
    assert got["masked"]["s"] == FIRST["s"]
    assert np.any(got["masked"]["w"] != FIRST["w"])


@rows
@pytest.mark.slow
def test_sharded_over_devices_equals_one(row):
    program, _ = compiled(str(row))
    mesh = Mesh(np.array(jax.devices()), ("d",))

    def spread(tree, first=()):
        return jax.tree.map(
            lambda x: jax.device_put(
                x, NamedSharding(mesh, P(*first, *("d",) * (x.ndim > len(first))))
            ),
            tree,
        )

    one = program(numbers_of(row), GRADS, PARAMS)
    # Its own jit: the shared one counts traces.
    many = jax.jit(functools.partial(run, row.make, **row.extra))(
        numbers_of(row), spread(GRADS, (None,)), spread(PARAMS)
    )
    assert len(many[0]["w"].sharding.device_set) == 8
    assert_close(many, one)


@rows
def test_it_lowers_for_cuda_and_tpu(row):
    program = jax.jit(functools.partial(run, row.make, **row.extra))
    exported = jax.export.export(program, platforms=("cuda", "tpu"))(
        numbers_of(row), GRADS, PARAMS
    )
    assert exported.platforms == ("cuda", "tpu")
    assert exported.mlir_module_serialized


@rows
def test_odd_gradients(row):
    """Zero stays zero, and what is finite stays finite and keeps its sign."""
    program = compiled(str(row))[0]

    def updates(entry):
        grads = jax.tree.map(lambda g: jnp.full(g.shape, entry, "float32"), GRADS)
        return jax.tree.leaves(program(numbers_of(row), grads, PARAMS)[0])

    assert all(np.all(leaf == 0) for leaf in updates(0))
    for entry in (3.4e38, -3.4e38, 1e25, 1e-30, -1.2e-38):
        for leaf in updates(entry):
            skipped = (row.spoils == "none") & (leaf == 0)
            assert np.isfinite(leaf).all()
            assert np.all(skipped | (np.sign(leaf) == np.sign(entry)))


@rows
@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_non_finite_gradients_show(row, bad):
    grads = GRADS | {"w": GRADS["w"].at[:, 0, 0].set(bad)}
    updates, _ = compiled(str(row))[0](numbers_of(row), grads, PARAMS)
    if row.spoils == "none":
        assert not any(np.any(leaf) for leaf in updates.values())
        return
    nan = {name: np.isnan(leaf) for name, leaf in updates.items()}
    if row.spoils == "entry":
        assert nan["w"][:, 0, 0].all() == np.isnan(bad)
        assert not nan["w"][:, 1:].any() and not nan["w"][:, :, 1].any()
    else:
        assert nan["w"][:, :, 0].all()
        assert nan["w"].all() == (row.spoils != "unit")
    assert nan["s"].all() == (row.spoils == "tree")


@rows
@pytest.mark.slow
def test_nan_shows_in_batches(row):
    """XLA:CPU ignores NaN in the maxima of some batches, of 64 by 64 for one."""
    size, params = 64, {"w": jnp.ones((64, 2)), "s": jnp.ones(())}
    normal = np.random.default_rng(0).normal(size=(size, STEPS, 64, 2))
    normal[np.arange(size), :, np.arange(size), 0] = np.nan
    grads = {"w": jnp.float32(normal), "s": jnp.ones((size, STEPS))}

    def updates(grads):
        return run(row.make, numbers_of(row), grads, params, **row.extra)[0]

    batch = jax.jit(jax.vmap(updates))(grads)
    alone = jax.jit(updates)(jax.tree.map(lambda g: g[7], grads))
    for name, expected in alone.items():
        np.testing.assert_array_equal(np.isnan(batch[name][7]), np.isnan(expected))


@rows
def test_empty_trees(row):
    transformation = row.make(**row.numbers)
    for empty in ({}, [None], {"a": jnp.zeros((0, 3))}):
        state = jax.eval_shape(transformation.init, empty)
        update = functools.partial(transformation.update, **row.extra)
        got, new_state = jax.eval_shape(update, empty, state, empty)
        assert jax.tree.structure(got) == jax.tree.structure(empty)
        assert jax.tree.structure(new_state) == jax.tree.structure(state)


@pytest.mark.slow
def test_states_may_be_donated():
    """All rows at once, as training steps do, from the states that `init` returns."""
    made = {str(row): row.make(**row.numbers) for row in TRANSFORMATIONS}
    extra = {str(row): row.extra for row in TRANSFORMATIONS}

    @functools.partial(jax.jit, donate_argnums=0)
    def step(states, grads):
        pairs = {
            name: tx.update(grads, states[name], PARAMS, **extra[name])
            for name, tx in made.items()
        }
        states = {name: state for name, (_, state) in pairs.items()}
        return states, {name: updates for name, (updates, _) in pairs.items()}

    states, _ = step({name: tx.init(PARAMS) for name, tx in made.items()}, FIRST)
    _, updates = step(states, FIRST)
    assert finite(updates)


@pytest.mark.slow
def test_states_survive_a_checkpoint(tmp_path):
    """All rows at once; what is restored goes on as if nothing had been."""
    made = {str(row): row.make(**row.numbers) for row in TRANSFORMATIONS}
    states = {
        str(row): compiled(str(row))[0](numbers_of(row), GRADS, PARAMS)[1]
        for row in TRANSFORMATIONS
    }
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        fresh = {name: tx.init(PARAMS) for name, tx in made.items()}
        abstract = jax.tree.map(orbax.checkpoint.utils.to_shape_dtype_struct, fresh)
        restored = checkpointer.restore(tmp_path / "states", abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(states)
    assert_equal(restored, states)
    name = str(next(row for row in TRANSFORMATIONS if row.variant == "scheduled"))
    again, _ = made[name].update(FIRST, restored[name], PARAMS)
    assert_equal(again, made[name].update(FIRST, states[name], PARAMS)[0])
