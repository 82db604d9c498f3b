"""Every transformation on the trees that people have: containers, leaves and dtypes."""

import chex
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from battery import TRANSFORMATIONS
from flax import nnx

pytestmark = pytest.mark.slow  # many rows, in many contexts

rows = pytest.mark.parametrize("row", TRANSFORMATIONS, ids=str)
# Around a batch of examples, which float0 does not have, or an optimizer of Optax.
NO_FLOAT0 = {
    "differentially_private_aggregate",
    "adaptive_quantile_clip",
    "with_learning_rate",
}
PARAMS = {"b": np.array([0.5, -1.0], "float32"), "w": np.ones((2, 3), "float32")}
GRADS = {
    "b": np.array([3.0, -0.1], "float32"),
    "w": np.array([[2.0, -1.0, 4.0], [0.3, 1.0, 0.0]], "float32"),
}


def as_nnx(tree):
    """As `nnx.state` gives the parameters of a module, and `nnx.grad` its gradients."""
    return nnx.State({name: nnx.Param(jnp.asarray(x)) for name, x in tree.items()})


CONTAINERS = {
    "FrozenDict": flax.core.freeze,
    "NNX": as_nnx,
    "None beside": lambda tree: {**tree, "none": None},
    "MaskedNode beside": lambda tree: {**tree, "none": optax.MaskedNode()},
    "nested": lambda tree: ({"deep": [tree["b"]]}, (tree["w"],)),
}


def updates_of(row, params, grads, update=lambda function: jax.jit(function)):
    tx = row.make(**row.numbers)
    step = update(lambda grads, state: tx.update(grads, state, params, **row.extra))
    state = tx.init(params)
    for size in (*row.before, 1.0):
        scaled = jax.tree.map(lambda g: scaled_leaf(g, size), grads)  # noqa: B023
        updates, state = step(scaled, state)
    return updates, state


def scaled_leaf(leaf, size):
    if getattr(leaf, "dtype", None) == jax.dtypes.float0:
        return leaf
    return leaf * size if isinstance(leaf, float) else leaf * leaf.dtype.type(size)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@rows
def test_containers_give_what_a_dict_gives(row):
    expected = leaves(updates_of(row, PARAMS, GRADS)[0])
    for name, contain in CONTAINERS.items():
        params, grads = contain(PARAMS), contain(GRADS)
        updates, _ = updates_of(row, params, grads)
        assert jax.tree.structure(updates) == jax.tree.structure(grads), name
        chex.assert_trees_all_close(leaves(updates), expected, rtol=1e-6)


@rows
def test_integer_parameters(row):
    """Their gradients (float0) hold no numbers, and pass through."""
    if row.name in NO_FLOAT0:
        pytest.skip("what is inside does not take float0")
    expected = leaves(updates_of(row, PARAMS, GRADS)[0])
    params = {**PARAMS, "n": np.arange(3, dtype="int32")}
    grads = {**GRADS, "n": np.zeros(3, jax.dtypes.float0)}
    updates, state = updates_of(row, params, grads, update=lambda function: function)
    assert updates.pop("n").dtype == jax.dtypes.float0
    chex.assert_trees_all_close(leaves(updates), expected, rtol=1e-6)
    fresh = row.make(**row.numbers).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)


@rows
def test_python_floats(row):
    """As the parameters of a toy problem are."""
    if row.name == "with_learning_rate":
        pytest.skip("Optax's optimizer inside does not take them")
    params, grads = {"a": 0.5, "b": -2.0}, {"a": 3.0, "b": -4.0}
    arrays = jax.tree.map(np.float32, (params, grads))
    expected, _ = updates_of(row, *arrays, update=lambda function: function)
    updates, _ = updates_of(row, params, grads, update=lambda function: function)
    chex.assert_trees_all_close(leaves(updates), leaves(expected), rtol=1e-6)


@rows
@pytest.mark.parametrize(
    "of_params, of_grads", [("bfloat16", "float32"), ("float32", "bfloat16")]
)
def test_parameters_and_gradients_of_different_precision(row, of_params, of_grads):
    params = jax.tree.map(lambda p: jnp.asarray(p, of_params), PARAMS)
    grads = jax.tree.map(lambda g: jnp.asarray(g, of_grads), GRADS)
    tx = row.make(**row.numbers)
    before = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(
        lambda: tx.update(grads, tx.init(params), params, **row.extra)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        updates, jax.eval_shape(lambda: grads)
    )


@rows
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_types_stay_where_double_precision_is_enabled(row, dtype):
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype), PARAMS)
        grads = jax.tree.map(lambda g: jnp.asarray(g, dtype), GRADS)
        tx = row.make(**row.numbers)
        before = tx.init(params)
        updates, after = jax.eval_shape(
            lambda state: tx.update(grads, state, params, **row.extra), before
        )
        chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
