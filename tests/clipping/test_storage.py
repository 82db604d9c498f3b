"""Every state through each common form of checkpoint, every method through pickle."""

import chex
import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from battery import TRANSFORMATIONS
from flax import serialization, traverse_util

pytestmark = pytest.mark.slow  # many rows, in many contexts

rows = pytest.mark.parametrize("row", TRANSFORMATIONS, ids=str)
PARAMS = {"w": jnp.ones((2, 3)), "layers": [jnp.ones(()), jnp.ones(4)]}
GRADS = jax.tree.map(lambda p: 0.5 * p, PARAMS)


def through_flat_dict(state, like, folder):
    """Of arrays with paths for names, such as safetensors holds."""
    nested = serialization.to_state_dict(state)
    flat = traverse_util.flatten_dict(nested, sep="/", keep_empty_nodes=True)
    nested = traverse_util.unflatten_dict(flat, sep="/")
    return serialization.from_state_dict(like, nested)


def through_bytes(state, like, folder):
    return serialization.from_bytes(like, serialization.to_bytes(state))


def through_numpy(state, like, folder):
    return jax.tree.map(np.asarray, state)


def through_npz(state, like, folder):
    leaves, structure = jax.tree.flatten(state)
    np.savez(folder / "state.npz", *leaves)
    with np.load(folder / "state.npz") as stored:
        return jax.tree.unflatten(structure, list(stored.values()))


def through_orbax(state, like, folder):
    if not jax.tree.leaves(state):  # Orbax does not save an empty tree
        return state
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        shapes = jax.tree.map(orbax.checkpoint.utils.to_shape_dtype_struct, like)
        return checkpointer.restore(folder / "state", shapes)


FORMS = {
    form.__name__.removeprefix("through_"): form
    for form in (
        through_flat_dict,
        through_bytes,
        through_numpy,
        through_npz,
        through_orbax,
    )
}


def after_an_update(row, params=PARAMS, grads=GRADS):
    tx = row.make(**row.numbers)
    _, state = tx.update(grads, tx.init(params), params, **row.extra)
    return tx, state


@rows
def test_states_restore_from_every_form(row, tmp_path):
    tx, state = after_an_update(row)
    update = jax.jit(lambda state: tx.update(GRADS, state, PARAMS, **row.extra))
    expected = update(state)
    for name, through in FORMS.items():
        restored = through(state, tx.init(PARAMS), tmp_path)
        assert jax.tree.structure(restored) == jax.tree.structure(state), name
        chex.assert_trees_all_equal(restored, state)
        chex.assert_trees_all_equal(update(restored), expected)


@rows
def test_no_array_of_a_state_is_empty(row):
    """Orbax and safetensors refuse arrays of size 0, also for a tree of no leaves."""
    for params in (PARAMS, {}, [None]):
        _, state = after_an_update(row, params, params)
        assert all(jnp.size(leaf) for leaf in jax.tree.leaves(state))


@rows
def test_pickled_transformations_give_the_same(row):
    tx, state = after_an_update(row)
    pickled = cloudpickle.loads(cloudpickle.dumps(tx))
    chex.assert_trees_all_equal(
        pickled.update(GRADS, state, PARAMS, **row.extra),
        tx.update(GRADS, state, PARAMS, **row.extra),
    )
    chex.assert_trees_all_equal(pickled.init(PARAMS), tx.init(PARAMS))
