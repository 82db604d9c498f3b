"""Norms against their formulas, for every dtype, order and magnitude."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import stabjax
from stabjax._norms import norm_dtype, scaled_norm
from stabjax._scaling import apply_factor, clip_factor, multiply

ORDERS = (1, 1.5, 2, 3, 300, np.inf)
MAGNITUDES = {
    "float16": (1, 6e4, 1e-4),
    "bfloat16": (1, 1e20, 3e38, 1e-20, 1e-34),
    "float32": (1, 1e-10, 1e15, 1e25, 3e38, 1e-25, 1e-34),
    "float64": (1, 1e25, 1e200, 1e307, 1e-25, 1e-200, 1e-300),
}


@functools.cache
def all_norms(dtype_name):
    """One program for the norms of all orders of a tree."""
    del dtype_name
    return jax.jit(
        lambda tree: [
            (stabjax.global_norm(tree, p), stabjax.leaf_norms(tree, p)) for p in ORDERS
        ]
    )


@pytest.mark.parametrize("name", models.DTYPES)
def test_norms_are_their_formulas(name):
    result = "float64" if name == "float64" else "float32"
    with models.x64_if(name):
        for seed, magnitude in enumerate(MAGNITUDES[name]):
            tree = models.random_tree(models.DTYPES[name], magnitude, seed)
            for p, norms in zip(ORDERS, all_norms(name)(tree), strict=True):
                assert norms[0].dtype == result and norms[0].shape == ()
                # The 300th power multiplies the rounding of |x| / M.
                factor = 4 if p == 300 else 1
                models.assert_close(norms[0], models.norm(tree, p), result, factor)
                each = jax.tree.map(lambda x: models.norm(x, p), tree)  # noqa: B023
                models.assert_close(norms[1], each, result, factor)


@pytest.mark.slow
@hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)
@hypothesis.given(st.lists(models.FLOATS, min_size=6, max_size=6))
def test_any_six_numbers(entries):
    x = np.asarray(entries, np.float32)
    expected = np.array([models.norm(x, p) for p in ORDERS])
    models.assert_close(_norms_of_six()(x), expected, "float32", 4)


@functools.cache
def _norms_of_six():
    return jax.jit(lambda x: jnp.stack([stabjax.global_norm(x, p) for p in ORDERS]))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([3, 4], 5),
        ([3e20, 4e20], 5e20),
        ([3e-25, 4e-25], 5e-25),
        ([3e20, 1], 3e20),
        ([1, 1e-25], 1),
        ([2e38, 2e38], 2.828427e38),
        ([3.4e38, 0], 3.4e38),
        ([3e38, 3e38], np.inf),
        ([np.inf, 1], np.inf),
        ([np.nan, 1], np.nan),
        ([np.nan, np.inf], np.nan),
        ([0, 0], 0),
    ],
)
def test_blues_cases(entries, expected):
    got = stabjax.global_norm(jnp.asarray(entries, jnp.float32))
    np.testing.assert_allclose(got, np.float32(expected), rtol=1e-6)


def test_orders_of_a_known_tree():
    tree = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}
    got = [float(stabjax.global_norm(tree, p)) for p in (2, 1, np.inf)]
    assert got == [13.0, 19.0, 12.0]


@pytest.mark.parametrize("p", ORDERS)
def test_non_finite_entries_show(p):
    norms = jax.jit(lambda x: stabjax.global_norm([x, jnp.ones(2)], p))
    assert np.isinf(norms(jnp.array([1.0, -np.inf])))
    assert np.isnan(norms(jnp.array([1.0, np.nan])))
    assert np.isnan(norms(jnp.array([np.inf, np.nan])))


def test_the_largest_of_many_equal_numbers():
    for largest in (3.4e38, -3e38, 1e-37, 2.0):
        tree = [jnp.float32(largest)] * 3
        models.assert_close(
            stabjax.global_norm(tree, np.inf), models.norm(tree, np.inf), "float32"
        )


@pytest.mark.parametrize("p", ORDERS)
def test_nan_shows_in_batches(p):
    """XLA:CPU ignores NaN in the maxima of some batches."""
    rows = np.ones((64, 64), np.float32)
    np.fill_diagonal(rows, np.nan)
    got = jax.jit(jax.vmap(lambda x: stabjax.global_norm([x[:9], x[9:]], p)))(rows)
    assert np.isnan(got).all()


@pytest.mark.slow
@pytest.mark.parametrize("p", (1, 2, 3, np.inf))
def test_odd_trees(p):
    norm = functools.partial(stabjax.global_norm, ord=p)
    for empty in ({}, None, [None], jnp.zeros(0), [jnp.zeros((0, 3))]):
        assert norm(empty) == 0 and norm(empty).dtype == jnp.float32
    assert norm(-4.0) == norm(4) == norm(np.float64(4)) == norm([None, 4]) == 4
    assert norm([jnp.zeros(0), jnp.array(2.0)]) == 2
    assert norm(jnp.array([0, -7, 0])) == 7
    assert stabjax.leaf_norms({"a": None, "b": ()}, p) == {"a": None, "b": ()}
    # Every leaf in its own dtype.
    mixed = [jnp.full(2, 6e4, jnp.float16), jnp.ones(3, jnp.bfloat16), 2.0, 3]
    models.assert_close(norm(mixed), models.norm(mixed, p), "float32")


@pytest.mark.parametrize("p", (1, 2, 3, np.inf))
def test_complex_entries_count_with_their_magnitude(p):
    norm = jax.jit(lambda tree: stabjax.global_norm(tree, p))
    for magnitude in (1, 1e25, 1e38, 1e-25):
        tree = [jnp.array([3 + 4j, -1j]) * magnitude, jnp.ones(2) * magnitude]
        models.assert_close(norm(tree), models.norm(tree, p), "float32")


@pytest.mark.slow
def test_many_leaves_and_many_entries():
    many = [jnp.ones((), jnp.bfloat16)] * 256
    assert jax.jit(stabjax.global_norm)(many) == 16
    np.testing.assert_allclose(
        stabjax.global_norm(jnp.full(10**6, 0.1, jnp.bfloat16)), 100.1, rtol=1e-3
    )
    largest = jnp.full(2**17, 3.4e38)  # the sum of their scaled squares is in range
    got = stabjax.global_norm({"x": largest * 2.0**-20})
    np.testing.assert_allclose(got, 3.4e38 * 2**-11.5, rtol=1e-5)


@pytest.mark.parametrize("p", ORDERS)
def test_derivative_is_its_formula(p):
    """d |x|_p / d x_i = sign(x_i) (|x_i| / |x|_p)^(p - 1), at any magnitude."""
    gradient = jax.jit(jax.grad(lambda x: stabjax.global_norm(x, p)))
    x = np.array([0.5, -0.25, 0.9, -1.0])
    if p == np.inf:
        expected = np.array([0, 0, 0, -1.0])
    else:
        expected = np.sign(x) * (abs(x) / models.norm(x, p)) ** (p - 1)
    for magnitude in (1, 1e25, 3e38, 1e-25, 1e-33):
        got = gradient(jnp.asarray(x * magnitude, jnp.float32))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("p", (2, np.inf))
@pytest.mark.parametrize("size", (2, 65))
def test_forward_derivative_along_small_directions(p, size):
    """The directions are small compared with the elements, or large."""
    direction = np.full(size, 0.01, np.float32)

    @jax.jit
    def along(x):
        return jax.jvp(lambda x: stabjax.global_norm(x, p), (x,), (direction,))[1]

    x = np.zeros(size)
    x[-1] = -1
    for magnitude in (1, 1e25, 3e38, 1e-25, 1e-33):
        got = along(jnp.asarray(x * magnitude, jnp.float32))
        np.testing.assert_allclose(got, -0.01, rtol=1e-5)


@pytest.mark.parametrize("p", ORDERS)
def test_derivative_at_zero_is_zero(p):
    def norm(tree):
        return stabjax.global_norm(tree, p)

    @jax.jit
    def derivatives(tree):
        return jax.grad(norm)(tree), jax.jvp(norm, (tree,), (tree,))[1]

    tree = {"x": jnp.zeros(2), "y": jnp.zeros(()), "e": jnp.zeros(0)}
    tree["c"] = jnp.zeros((1,), jnp.complex64)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(derivatives(tree)))
    gradient, along = derivatives(tree | {"x": jnp.array([0.0, 2.0])})
    assert gradient["x"].tolist() == [0, 1] and along == 2
    assert all(np.all(gradient[name] == 0) for name in "yce")


@pytest.mark.parametrize("p", ORDERS)
def test_vmap_over_all_magnitudes_at_once(p):
    """Some rows need other scales than the rest: each one gets its own."""
    rows = jnp.asarray([[3, 4], [3e30, 4e30], [3e-30, 4e-30], [0, 0], [np.inf, 0]])
    got = jax.vmap(lambda x: stabjax.global_norm(x, p))(rows.astype(jnp.float32))
    for value, row in zip(got, rows, strict=True):
        models.assert_close(value, models.norm(row, p), "float32")


SHARDED = {
    "ordinary": np.arange(-8.0, 16).reshape(8, 3),
    "huge": np.linspace(-3e38, 3e38, 24).reshape(8, 3) / 24,
    "tiny": np.linspace(-3e-30, 3e-30, 24).reshape(8, 3),
    "huge on one device": np.eye(8, 3) * 1e30,
    "zero": np.zeros((8, 3)),
    "NaN on one device": np.eye(8, 3) * np.nan,
}


@pytest.mark.parametrize("check_vma", (True, False))
def test_shards_equal_one_device(check_vma):
    mesh = Mesh(np.array(jax.devices()), ("d",))
    orders = (1, 2, 3, np.inf)

    def shard_norms(x):
        return [stabjax.global_norm(x, p, axis_name="d") for p in orders]

    sharded = jax.jit(
        jax.shard_map(
            shard_norms, mesh=mesh, in_specs=P("d"), out_specs=P(), check_vma=check_vma
        )
    )
    for x in SHARDED.values():
        x = jnp.asarray(x, jnp.float32)
        for p, got in zip(orders, sharded(x), strict=True):
            models.assert_close(got, models.norm(x, p), "float32")


@pytest.mark.parametrize("p", (1, 2, 3, np.inf))
def test_derivative_over_shards_equals_one_device(p):
    mesh = Mesh(np.array(jax.devices()), ("d",))
    sharded = jax.shard_map(
        lambda x: stabjax.global_norm(x, p, axis_name="d"),
        mesh=mesh,
        in_specs=P("d"),
        out_specs=P(),
    )
    gradient = jax.jit(jax.grad(lambda x: sharded(x)))
    one = jax.jit(jax.grad(lambda x: stabjax.global_norm(x, p)))
    for case in ("ordinary", "huge", "tiny", "zero"):
        x = jnp.asarray(SHARDED[case], jnp.float32)
        if case != "zero":
            x = x.at[0, 0].multiply(1.5)  # the largest is the only largest
        np.testing.assert_allclose(gradient(x), one(x), rtol=1e-5, atol=1e-7)


def test_named_vmap_equals_one_device():
    for case in ("ordinary", "huge", "NaN on one device"):
        x = jnp.asarray(SHARDED[case], jnp.float32)
        for p in (1, 2, np.inf):
            got = jax.vmap(
                lambda row: stabjax.global_norm(row, p, axis_name="d"),  # noqa: B023
                axis_name="d",
            )(x)
            models.assert_close(got, np.full(8, models.norm(x, p)), "float32")


def test_one_shard_alone_has_no_axes():
    mesh = Mesh(np.array(jax.devices()), ("d",))
    x = jnp.asarray(SHARDED["huge on one device"], jnp.float32)
    got = jax.shard_map(
        lambda row: stabjax.global_norm(row, axis_name=())[None],
        mesh=mesh,
        in_specs=P("d"),
        out_specs=P("d"),
    )(x)
    models.assert_close(got, np.array([1e30] * 3 + [0] * 5), "float32")


MIXED = {"both": P("d", "e"), "first": P("d"), "second": P(None, "e"), "none": P()}
SAID = {"both": ("d", "e"), "first": "d", "second": ("e",), "none": ()}


def mixed_tree(magnitude=1.0):
    rng = np.random.default_rng(3)
    return {
        name: jnp.asarray(rng.normal(size=(4, 6)) * magnitude, jnp.float32)
        for name in MIXED
    }


def on_two_axes(function, tree, specs=MIXED, check_vma=True):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("d", "e"))
    sharded = jax.shard_map(
        function, mesh=mesh, in_specs=(specs,), out_specs=P(), check_vma=check_vma
    )
    return jax.jit(sharded)(tree)


@pytest.mark.parametrize("axis_name", (None, ("d", "e"), SAID, SAID | {"first": None}))
@pytest.mark.parametrize("p", (1, 2, 3, np.inf))
@pytest.mark.slow
def test_leaves_sharded_over_different_axes(axis_name, p):
    """By their types, whether or not these are also stated."""
    for magnitude in (1, 1e30, 1e-30):
        tree = mixed_tree(magnitude)
        whole, each = on_two_axes(
            lambda tree: (
                stabjax.global_norm(tree, p, axis_name=axis_name),
                stabjax.leaf_norms(tree, p, axis_name=axis_name),
            ),
            tree,
        )
        models.assert_close(whole, models.norm(tree, p), "float32")
        expected = jax.tree.map(lambda x: models.norm(x, p), tree)  # noqa: B023
        models.assert_close(each, expected, "float32")


@pytest.mark.parametrize("p", (1, 2, np.inf))
def test_axes_that_types_do_not_show_are_stated_for_each_leaf(p):
    def norm(tree):
        return stabjax.global_norm(tree, p, axis_name=SAID)

    got = on_two_axes(norm, mixed_tree(), check_vma=False)
    models.assert_close(got, models.norm(mixed_tree(), p), "float32")


@pytest.mark.parametrize(
    ("axis_name", "leaf"),
    [
        ("d", "tree/both"),
        (SAID | {"none": "d"}, "tree/none"),
        (SAID | {"both": "e"}, "tree/both"),
        (SAID | {"first": ()}, "tree/first"),
    ],
)
def test_axes_that_contradict_a_leaf_raise(axis_name, leaf):
    with pytest.raises(ValueError, match=f"axis_name must contain .*'{leaf}'"):
        on_two_axes(lambda t: stabjax.global_norm(t, axis_name=axis_name), mixed_tree())


def test_axes_for_leaves_that_are_missing_raise():
    for axes, message in [
        ({"a": "d"}, "got none for 'b'"),
        ({"a": "d", "b": (), "c": "d"}, "got one for 'c'"),
    ]:
        with pytest.raises(ValueError, match=f"axis_name .*{message}"):
            stabjax.global_norm({"a": 1.0, "b": 2.0}, axis_name=axes)


def test_leaves_that_are_not_arrays_raise():
    tree = {"layers": [{"w": jnp.ones(2), "act": jax.nn.relu}]}
    for norm in (stabjax.global_norm, stabjax.leaf_norms):
        with pytest.raises(TypeError, match=r"tree must contain .*'layers/0/act'"):
            norm(tree)


@pytest.mark.parametrize("p", (0.5, -1, np.nan, "2", None, 1j))
def test_orders_that_are_none_raise(p):
    with pytest.raises(ValueError, match=r"ord must be a number in \[1, inf\].*got"):
        stabjax.global_norm(jnp.ones(2), p)
    with pytest.raises(ValueError, match="ord must be"):
        stabjax.leaf_norms(jnp.ones(2), p)


def test_a_traced_order_raises():
    with pytest.raises(ValueError, match="known at trace time"):
        jax.jit(lambda p: stabjax.global_norm(jnp.ones(2), p))(2.0)


def test_orders_of_numpy():
    for two in (2.0, np.int64(2), np.float32(2)):
        assert stabjax.global_norm([3.0, 4.0], two) == 5


def test_leaves_without_numbers_count_for_nothing_and_pass_unchanged():
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(
        {"w": jnp.array([1.5, 2.0]), "n": jnp.arange(3)}
    )
    assert float(stabjax.global_norm(grads)) == 5.0
    factor = clip_factor(scaled_norm(grads), jnp.float32(1.0))
    for changed in (apply_factor(grads["n"], factor), multiply(grads["n"], 0.5)):
        assert (changed.dtype, changed.shape) == (jax.dtypes.float0, (3,))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.complex64, jnp.int8])
def test_the_dtype_of_statistics_comes_from_shapes_and_python_numbers(dtype):
    assert norm_dtype([jax.ShapeDtypeStruct((2, 3), dtype), 1.0, 2]) == jnp.float32


@pytest.mark.parametrize("scale", [0.3, 1e30, jnp.float16(0.3), jnp.asarray(0.3)])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_products_with_a_scalar_are_taken_in_float32(dtype, scale):
    x = jnp.linspace(-2, 2, 5, dtype=dtype)
    product = multiply(x, scale)
    right = np.asarray(x, np.float32) * np.asarray(scale, np.float32)
    assert product.dtype == dtype
    np.testing.assert_array_equal(product, jnp.asarray(right).astype(dtype))
