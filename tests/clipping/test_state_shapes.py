"""States sharded by the recipes that give them their parameters' partition specs.

Whatever has the structure of the parameters must have their shapes, since Optax, Linen
and NNX take it for an array like each parameter.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from battery import TRANSFORMATIONS
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import stabjax

pytestmark = pytest.mark.slow  # many rows, in many contexts
rows = pytest.mark.parametrize("row", TRANSFORMATIONS, ids=str)
PARAMS = {"w": jnp.ones((8, 2)), "b": jnp.ones(8)}
GRADS = jax.tree.map(lambda p: 0.5 * p, PARAMS)
SPECS = {"w": P("d", None), "b": P("d")}


def mesh_of_eight():
    return jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))


def like_params(tree):
    return jax.tree.structure(tree) == jax.tree.structure(PARAMS)


@rows
def test_what_has_the_structure_of_parameters_has_their_shapes(row):
    tx = row.make(**row.numbers)
    state = tx.init(PARAMS)
    _, after = tx.update(GRADS, state, PARAMS, **row.extra)
    for part in jax.tree.leaves((state, after), is_leaf=like_params):
        if like_params(part):
            chex.assert_trees_all_equal_shapes(part, PARAMS)


@rows
def test_partition_specs_of_optax(row):
    """As trainers place a state that is made under `jit`."""
    mesh, tx = mesh_of_eight(), row.make(**row.numbers)
    of_params = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    everywhere = NamedSharding(mesh, P())
    shardings = optax.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        jax.eval_shape(tx.init, PARAMS),
        of_params,
        transform_non_params=lambda _: everywhere,
    )
    params, grads = jax.device_put((PARAMS, GRADS), (of_params, of_params))
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    update = jax.jit(
        lambda grads, state, params: tx.update(grads, state, params, **row.extra),
        out_shardings=(of_params, shardings),
    )
    found = update(grads, state, params)
    expected = tx.update(GRADS, tx.init(PARAMS), PARAMS, **row.extra)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    for array, sharding in zip(
        jax.tree.leaves(found[1]), jax.tree.leaves(shardings), strict=True
    ):
        assert array.sharding.is_equivalent_to(sharding, array.ndim)


def trained(row, **metadata):
    """A linear layer of NNX after an update, and the state of its optimizer."""
    init = nnx.with_metadata(nnx.initializers.ones, **metadata)
    model = nnx.Linear(8, 2, kernel_init=init, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, row.make(**row.numbers), wrt=nnx.Param)
    grads = nnx.grad(lambda model: jnp.sum(model(jnp.ones((1, 8))) ** 2))(model)
    optimizer.update(model, grads, **row.extra)
    return model, optimizer


@rows
def test_partition_specs_of_nnx(row):
    with jax.set_mesh(mesh_of_eight()):
        model, optimizer = trained(row, out_sharding=("d", None))
        assert model.kernel.get_value().sharding.spec == P("d", None)
        state = nnx.state(optimizer)
        specs = nnx.get_partition_spec(state)
        place = jax.jit(lambda state: jax.lax.with_sharding_constraint(state, specs))
        placed = place(state)
    _, expected = trained(row)
    for x, y in zip(
        jax.tree.leaves(placed), jax.tree.leaves(nnx.state(expected)), strict=True
    ):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(x, y, rtol=1e-6)


TRACKS_LEAVES = (
    stabjax.clip_by_tracked_max,
    stabjax.normalize_by_tracked_norm,
    stabjax.scale_by_stable_spam,
)


@pytest.mark.parametrize("make", TRACKS_LEAVES)
def test_leaves_of_all_kinds_are_as_each_alone(make):
    """Of several dtypes, beside None, no leaves, and integers with their float0."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        arrays = {
            "wide": jnp.asarray(rng.normal(size=(4, 3))),
            "narrow": jnp.asarray(rng.normal(size=5), "float32"),
            "half": jnp.asarray(rng.normal(size=(2, 2)), "bfloat16"),
        }
        rest = {"none": None, "empty": {}, "count": jnp.arange(3)}
        float0 = {"count": np.zeros(3, jax.dtypes.float0)}
        tx = make()
        state = tx.init(rest | arrays)
        alone = {name: tx.init(array) for name, array in arrays.items()}
        for size in (1, 8, 0.5):
            grads = {name: size * array for name, array in arrays.items()}
            updates, state = tx.update(rest | float0 | grads, state)
            assert updates["none"] is None and updates["count"] is float0["count"]
            for name, g in grads.items():
                expected, alone[name] = tx.update(g, alone[name])
                assert updates[name].dtype == g.dtype
                rtol = {"wide": 1e-14, "narrow": 1e-6, "half": 1e-2}[name]
                np.testing.assert_allclose(updates[name], expected, rtol)
        names = sorted(rest | arrays)
        leaves = [name for name in names if name not in ("none", "empty")]
        vectors = [x for x in state if getattr(x, "ndim", 0) == 1]
        assert vectors and all(x.dtype == jnp.float64 for x in vectors)
        for name in arrays:
            singles = [x for x in alone[name] if getattr(x, "shape", ()) == (1,)]
            for vector, single in zip(vectors, singles, strict=True):
                np.testing.assert_allclose(vector[leaves.index(name)], single[0], 1e-6)
        assert all(x[leaves.index("count")] == 0 for x in vectors)
