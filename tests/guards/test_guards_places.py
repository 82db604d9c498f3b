"""Guards and metrics in every place: trees, precisions, meshes, wrappers, files."""

import functools
import pickle

import chex
import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization, traverse_util
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import stabjax

pytestmark = pytest.mark.slow  # many rows, in many contexts

SGD = optax.chain(optax.trace(0.9), optax.scale(-0.1))
TRANSFORMATIONS = {
    "with_metrics": lambda **axes: stabjax.with_metrics(
        stabjax.clip_by_global_norm(1.0, **axes), "clip", per_leaf=True, **axes
    ),
    "with_metrics, measured": lambda **axes: stabjax.with_metrics(
        optax.chain(stabjax.clip_by_global_norm(1.0, **axes)),
        "clip",
        per_leaf=True,
        **axes,
    ),
    "skip_if_nonfinite": lambda **axes: stabjax.skip_if_nonfinite(SGD, **axes),
    "skip_above_norm": lambda **axes: stabjax.skip_above_norm(
        SGD, stabjax.linear_schedule(1e6, 1.0, 10), **axes
    ),
    "skip_on_spike": lambda **axes: stabjax.skip_on_spike(SGD, window=4, **axes),
    "reduce_on_plateau": lambda **axes: stabjax.reduce_on_plateau(factor=0.5),
    "with_learning_rate": lambda **axes: stabjax.with_learning_rate(
        optax.sgd, stabjax.linear_schedule(0.1, 0.0, 10)
    ),
    "by_group": lambda **axes: stabjax.by_group(
        {"w": stabjax.with_metrics(SGD, "w", **axes), "rest": optax.identity()},
        lambda path: "w" if "w" in path else "rest",
    ),
}
EVERY = pytest.mark.parametrize("make", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)


def updated(make, grads, times=1):
    """The updates and the state after some updates with a loss of 1."""
    tx = optax.with_extra_args_support(make())
    state = tx.init(grads)
    for _ in range(times):
        updates, state = tx.update(grads, state, grads, value=1.0)
    return updates, state


@EVERY
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_init_takes_shapes(make, dtype):
    params = {"w": jnp.ones((4, 8), dtype), "b": jnp.ones(3)}
    shapes = jax.eval_shape(lambda: params)
    chex.assert_trees_all_equal(make().init(shapes), make().init(params))


@EVERY
def test_python_numbers_are_leaves(make, standard_promotion):
    if make is TRANSFORMATIONS["with_learning_rate"]:
        pytest.skip("Optax's schedules take arrays alone")
    updates, state = updated(make, {"w": 3.0, "b": 4.0})
    arrays, kept = updated(make, {"w": jnp.array(3.0), "b": jnp.array(4.0)})
    chex.assert_trees_all_close(updates, arrays)
    chex.assert_trees_all_close(stabjax.metrics(state), stabjax.metrics(kept))


@pytest.mark.parametrize(
    "make",
    [
        TRANSFORMATIONS["with_metrics"],
        lambda: stabjax.with_metrics(optax.identity(), "raw", per_leaf=True),
        lambda: stabjax.skip_if_nonfinite(stabjax.clip_by_global_norm(1.0)),
        lambda: stabjax.skip_on_spike(stabjax.clip_by_global_norm(1.0)),
        lambda: stabjax.reduce_on_plateau(),
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_gradients_of_integers_are_leaves(make, wrap):
    params = {"w": jnp.array([3.0, 4.0]), "n": jnp.arange(3)}
    tx = optax.with_extra_args_support(make())

    def step(state):
        loss = lambda p: jnp.array([3.0, 4.0]) @ p["w"]  # noqa: E731
        grads = jax.grad(loss, allow_int=True)(params)
        updates, state = tx.update(grads, state, params, value=jnp.array(1.0))
        return updates["w"], state

    updates, state = wrap(step)(tx.init(params))
    assert np.isfinite(updates).all()
    for name, value in stabjax.metrics(state).items():
        if name.endswith("grad_norm"):
            np.testing.assert_allclose(value, 5.0, rtol=1e-6)


@EVERY
def test_a_function_as_a_leaf_is_named(make):
    params = {"w": jnp.ones(2), "layer": {"activation": jax.nn.relu}}
    if make in (TRANSFORMATIONS["with_learning_rate"], TRANSFORMATIONS["by_group"]):
        pytest.skip("what is inside speaks for itself")
    with pytest.raises(TypeError, match=r"params must contain .*layer/activation"):
        make().init(params)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "transformation",
    [
        stabjax.clip_by_global_norm(1e4),
        stabjax.clip_by_block_norm(1e4),
        stabjax.clip(1e4),
        optax.chain(stabjax.clip_by_global_norm(1e4)),
        optax.identity(),
    ],
)
def test_nothing_is_clipped_below_the_threshold_in_any_precision(
    transformation, dtype, standard_promotion
):
    options = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
    graph, params = nnx.split(nnx.Conv(1, 4, (3, 3), **options), nnx.Param)
    x = jax.random.normal(jax.random.key(0), (8, 8, 8, 1), dtype)
    tx = stabjax.with_metrics(transformation, "clip")

    @jax.jit
    def step(params, state):
        def loss(p):
            return jnp.mean(nnx.merge(graph, p)(x).astype(jnp.float32) ** 2)

        grads = jax.grad(loss)(params)
        # What was not rounded is what it would be compared with.
        return tx.update(grads, state, params)[1], grads

    state, _ = step(params, tx.init(params))
    assert stabjax.metrics(state)["clip/clip_fraction"] == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_clip_in_any_precision_shows(dtype):
    tx = stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), "clip")
    grads = jnp.full(100, 0.11, dtype)
    _, state = jax.jit(tx.update)(grads, tx.init(grads))
    found = stabjax.metrics(state)
    assert found["clip/clipped"]
    np.testing.assert_allclose(found["clip/update_norm"], 1.0, rtol=4e-3)


def test_parts_of_the_norm_by_leaf():
    everything = ("grad_norm", "norm_share", "update_norm", "param_norm")
    tx = stabjax.with_metrics(
        stabjax.clip_by_global_norm(1.0), "clip", per_leaf=everything
    )
    params = {"a": jnp.array([1.0, 2.0, 2.0]), "b": jnp.array(7.0), "c": jnp.zeros(2)}
    grads = {"a": jnp.array([3.0, 0, 0]), "b": jnp.array(4.0), "c": jnp.zeros(2)}
    found = stabjax.metrics(jax.jit(tx.update)(grads, tx.init(params), params)[1])
    for metric, values in {
        "grad_norm": [3, 4, 0],
        "norm_share": [9 / 25, 16 / 25, 0],
        "update_norm": [3 / 5, 4 / 5, 0],
        "param_norm": [3, 7, 0],
    }.items():
        got = [found[f"clip/{metric}/{leaf}"] for leaf in "abc"]
        np.testing.assert_allclose(got, values, rtol=1e-6)
    with pytest.raises(ValueError, match="params must be passed to update"):
        tx.update(grads, tx.init(params))
    with pytest.raises(ValueError, match="per_leaf must be 'grad_norm', .*got 'norm'"):
        stabjax.with_metrics(optax.identity(), "x", per_leaf=["norm"])
    with pytest.raises(TypeError, match="per_leaf must be a boolean or a sequence"):
        stabjax.with_metrics(optax.identity(), "x", per_leaf="grad_norm")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30, 0.0])
def test_shares_do_not_overflow(scale):
    tx = stabjax.with_metrics(optax.identity(), "raw", per_leaf=["norm_share"])
    grads = {"a": jnp.full(9, scale), "b": jnp.full(16, scale)}
    found = stabjax.metrics(tx.update(grads, tx.init(grads))[1])
    shares = [found["raw/norm_share/a"], found["raw/norm_share/b"]]
    np.testing.assert_allclose(shares, np.array([9, 16]) / 25 * (scale > 0), rtol=1e-6)


SPECS = {"w": P(None, "x"), "b": P(), "rows": P("x")}
GRADS = {"w": jnp.arange(16.0).reshape(2, 8), "b": jnp.ones(3), "rows": jnp.ones(8)}


def mesh_of(kind):
    return jax.make_mesh((8,), ("x",), axis_types=(kind,))


@EVERY
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_an_explicit_mesh_does_not_show(make, wrap):
    mesh = mesh_of(AxisType.Explicit)
    expected, kept = updated(make, GRADS, times=2)
    tx = optax.with_extra_args_support(make())
    with jax.set_mesh(mesh):
        grads = {
            name: jax.device_put(g, NamedSharding(mesh, SPECS[name]))
            for name, g in GRADS.items()
        }
        state = tx.init(grads)
        step = wrap(lambda g, s: tx.update(g, s, g, value=jnp.array(1.0)))
        updates, after = step(grads, state)
        updates, after = step(grads, after)
        assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, after)
        assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, grads)
    chex.assert_trees_all_close(jax.device_get(updates), jax.device_get(expected))
    chex.assert_trees_all_close(
        jax.device_get(stabjax.metrics(after)),
        jax.device_get(stabjax.metrics(kept)),
        rtol=1e-6,
    )


BAD = {  # one element, which one device alone holds
    "good": lambda grads: grads,
    "nan": lambda grads: grads | {"rows": grads["rows"].at[3].set(jnp.nan)},
}


@EVERY
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("told", [False, True], ids=["types", "axis_name"])
def test_all_shards_decide_alike(make, bad, told):
    if told and make is TRANSFORMATIONS["reduce_on_plateau"]:
        pytest.skip("its loss is averaged by its type")
    grads, axes = bad(GRADS), {"axis_name": {"w": "x", "b": (), "rows": "x"}}
    expected, kept = updated(make, grads)
    if make is TRANSFORMATIONS["by_group"] and told:
        axes = {"axis_name": "x"}
    tx = optax.with_extra_args_support(make(**axes if told else {}))

    def step(grads):
        # A loss that differs from shard to shard, with a mean of 1.
        loss = 2 / 7 * jax.lax.axis_index("x").astype(jnp.float32)
        updates, state = tx.update(grads, tx.init(grads), grads, value=loss)
        return updates, stabjax.metrics(state)

    mesh = mesh_of(AxisType.Auto)
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(SPECS,), out_specs=(SPECS, P()), check_vma=not told
    )
    updates, found = jax.jit(sharded)(grads)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)
    chex.assert_trees_all_close(found, stabjax.metrics(kept), rtol=1e-6)


def roundtrips():
    def flat(state):
        nested = serialization.to_state_dict(state)
        flattened = traverse_util.flatten_dict(nested, sep="/", keep_empty_nodes=True)
        nested = traverse_util.unflatten_dict(flattened, sep="/")
        return serialization.from_state_dict(state, nested)

    def standard(state, path):
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, state)
            checkpointer.wait_until_finished()
            return checkpointer.restore(path, state)

    def pytree(state, path):
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(path, state)
            return checkpointer.restore(path, item=state)

    return {
        "bytes": lambda state, path: serialization.from_bytes(
            state, serialization.to_bytes(state)
        ),
        "flat": lambda state, path: flat(state),
        "numpy": lambda state, path: jax.tree.map(np.asarray, state),
        "pickle": lambda state, path: pickle.loads(pickle.dumps(state)),
        "orbax": standard,
        "orbax pytree": pytree,
    }


@EVERY
@pytest.mark.parametrize("how", roundtrips())
@pytest.mark.filterwarnings("ignore")  # Orbax's own
def test_states_restore_from_every_form(make, how, tmp_path):
    grads = {"w": jnp.arange(3.0), "nested": {"b": jnp.ones(2)}}
    tx = optax.with_extra_args_support(make())
    _, state = updated(make, grads)
    restored = roundtrips()[how](state, tmp_path / "state")
    chex.assert_trees_all_equal(restored, state)
    steps = [tx.update(grads, s, grads, value=1.0) for s in (state, restored)]
    chex.assert_trees_all_equal(*steps)
    assert list(stabjax.metrics(restored)) == list(stabjax.metrics(state))


@EVERY
def test_transformations_pickle(make):
    grads = {"w": jnp.arange(3.0), "b": jnp.ones(2)}
    sent = cloudpickle.loads(cloudpickle.dumps(make()))
    chex.assert_trees_all_close(
        updated(lambda: sent, grads), updated(make, grads), rtol=1e-6
    )


def test_slashes_in_parameter_names_restore():
    tx = stabjax.with_metrics(optax.identity(), "raw", per_leaf=True)
    grads = {"w": jnp.arange(3.0), "nested/name": {"b": jnp.ones(2)}}
    _, state = tx.update(grads, tx.init(grads))
    chex.assert_trees_all_equal(roundtrips()["flat"](state, None), state)
    assert "raw/norm_share/nested/name/b" in stabjax.metrics(state)


def test_a_pickled_clip_still_reports():
    clip = cloudpickle.loads(cloudpickle.dumps(stabjax.clip_by_global_norm(1.0)))
    assert clip.report(jnp.array([3.0, 4.0])).update_norm == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda x: stabjax.with_learning_rate(optax.sgd, x),
        lambda x: stabjax.skip_above_norm(SGD, x),
        lambda x: stabjax.skip_on_spike(SGD, z_threshold=x),
        lambda x: stabjax.skip_if_nonfinite(SGD, max_consecutive=x),
        lambda x: stabjax.reduce_on_plateau(x),
        lambda x: stabjax.with_metrics(stabjax.clip_by_global_norm(x), "clip"),
    ],
)
def test_a_donated_state_leaves_the_arrays_of_the_caller(make):
    number = jnp.array(0.5)
    tx = optax.with_extra_args_support(make(number))
    for prepare in (lambda s: s, lambda s: tx.update(GRADS, s, value=number)[1]):
        state = prepare(tx.init(GRADS))
        donated = jax.jit(lambda s: tx.update(GRADS, s, value=number), donate_argnums=0)
        donated(donated(state)[1])
        assert number == 0.5


class TestAccumulation:
    grads = (jnp.array([1.0, jnp.nan]), jnp.ones(2), jnp.ones(2), jnp.ones(2))

    def run(self, make):
        tx, found = make(), []
        state = tx.init(jnp.ones(2))
        for g in self.grads * 2:
            updates, state = tx.update(g, state, jnp.ones(2))
            found.append(updates)
        return np.stack(found), state

    @pytest.mark.parametrize(
        "make",
        [
            lambda: optax.MultiSteps(stabjax.skip_if_nonfinite(SGD), 2),
            lambda: optax.chain(
                optax.MultiSteps(
                    optax.chain(optax.identity(), stabjax.skip_on_spike(SGD)), 2
                ).gradient_transformation()
            ),
        ],
    )
    def test_a_guard_inside_is_refused(self, make, standard_promotion):
        _, state = self.run(make)
        for call in (
            lambda: stabjax.check_guards(state, max_consecutive=1000),
            lambda: stabjax.unless_skipped(state, 1.0, 0.0),
        ):
            with pytest.raises(ValueError, match=r"outside optax.MultiSteps, .*Use"):
                call()

    @pytest.mark.parametrize(
        "make",
        [
            lambda: stabjax.skip_if_nonfinite(
                optax.MultiSteps(SGD, 2).gradient_transformation()
            ),
            lambda: optax.MultiSteps(
                stabjax.skip_if_nonfinite(SGD),
                2,
                should_skip_update_fn=optax.skip_not_finite,
            ),
        ],
        ids=["outside", "skip_not_finite"],
    )
    def test_the_right_orders_recover(self, make, standard_promotion):
        updates, state = self.run(make)
        assert np.isfinite(updates).all()
        assert (updates[-4:] != 0).any()
        stabjax.check_guards(state)


def test_the_rest_of_a_model_stays_in_a_skipped_step():
    guard = stabjax.skip_if_nonfinite(optax.chain(SGD))

    @jax.jit
    def step(grads, state, statistics):
        _, state = guard.update(grads, state)
        new = jax.tree.map(lambda s: s + grads[0].astype(s.dtype), statistics)
        return state, stabjax.unless_skipped(state, new, statistics)

    statistics = {"mean": jnp.zeros(3), "count": jnp.zeros((), jnp.bfloat16), "n": None}
    state = guard.init(jnp.ones(2))
    for grad, expected in ((1.0, 1.0), (jnp.nan, 1.0), (2.0, 3.0), (jnp.inf, 3.0)):
        state, statistics = step(jnp.full(2, grad), state, statistics)
        np.testing.assert_array_equal(statistics["mean"], np.full(3, expected))
        assert statistics["count"] == expected
    with pytest.raises(ValueError, match="must contain the state of a guard"):
        stabjax.unless_skipped(optax.adam(0.1).init(jnp.ones(2)), 1.0, 0.0)


def test_batch_statistics_of_nnx_and_keys_stay_too(standard_promotion):
    layer = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    guard = stabjax.skip_if_nonfinite(SGD)
    old = nnx.state(layer, nnx.BatchStat), jax.random.key(0)
    old = jax.tree.map(jnp.copy, old)
    _, state = guard.update(jnp.array(jnp.nan), guard.init(jnp.array(0.0)))
    layer(jnp.full((4, 3), jnp.nan))
    new = nnx.state(layer, nnx.BatchStat), jax.random.key(1)
    kept = stabjax.unless_skipped(state, new, old)
    chex.assert_trees_all_equal(kept, old)


RATE = stabjax.linear_schedule(0.5, 0.1, 4)
OPTIMIZERS = {
    "adamw": (optax.adamw, {"weight_decay": 1e-2, "b2": 0.999}),
    "sgd": (optax.sgd, {"momentum": 0.9}),
    "lion": (optax.lion, {}),
    "adafactor": (optax.adafactor, {}),
    "lamb": (optax.lamb, {}),
}


class TestLearningRate:
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
    @pytest.mark.parametrize("which", OPTIMIZERS)
    def test_updates_are_those_of_the_optimizer(self, which, dtype, standard_promotion):
        optimizer, kwargs = OPTIMIZERS[which]
        tx = stabjax.with_learning_rate(optimizer, RATE, **kwargs)
        plain = optimizer(RATE, **kwargs)
        params = {"w": jnp.linspace(0.5, 1.0, 12, dtype=dtype).reshape(4, 3)}
        state, other = tx.init(params), plain.init(params)
        step, plain_step = jax.jit(tx.update), jax.jit(plain.update)
        for count in range(5):
            updates, state = step(params, state, params)
            expected, other = plain_step(params, other, params)
            chex.assert_trees_all_equal(updates, expected)
            rate = stabjax.metrics(state)["learning_rate"]
            assert rate.dtype == jnp.float32
            np.testing.assert_allclose(rate, RATE(count), rtol=1e-7)

    def test_a_number_is_read_from_the_state(self):
        tx = stabjax.with_learning_rate(optax.sgd, 0.5)
        state = tx.init(jnp.ones(2))
        state.hyperparams["learning_rate"] = jnp.array(0.25)
        updates, state = tx.update(jnp.ones(2), state)
        np.testing.assert_array_equal(updates, [-0.25, -0.25])
        assert stabjax.metrics(state) == {"learning_rate": 0.25}

    @pytest.mark.parametrize(
        "optimizer",
        [
            optax.fromage,
            optax.rprop,
            lambda learning_rate: optax.sgd(learning_rate / 2),
        ],
    )
    def test_an_optimizer_may_want_a_number(self, optimizer, standard_promotion):
        tx = stabjax.with_learning_rate(optimizer, RATE)
        grads = jnp.ones(2)
        updates, state = tx.update(grads, tx.init(grads), grads)
        plain = optimizer(learning_rate=0.5)
        expected, _ = plain.update(grads, plain.init(grads), grads)
        np.testing.assert_allclose(updates, expected, rtol=1e-6)
        assert stabjax.metrics(state)["learning_rate"] == 0.5

    def test_is_traceable_and_passes_extra_arguments(self):
        def final(rate):
            tx = stabjax.with_learning_rate(
                lambda learning_rate: optax.chain(
                    optax.sgd(learning_rate), stabjax.reduce_on_plateau(0.5, patience=1)
                ),
                rate,
            )
            state = tx.init(jnp.array(0.0))
            for _ in range(2):
                updates, state = tx.update(jnp.array(1.0), state, value=jnp.array(1.0))
            return updates

        rates = jnp.array([0.5, 1.0])
        np.testing.assert_allclose(jax.vmap(final)(rates), [-0.25, -0.5])

    @pytest.mark.parametrize(
        "make, message",
        [
            (lambda: stabjax.with_learning_rate(optax.identity, 0.1), "optimizer must"),
            (lambda: stabjax.with_learning_rate(optax.sgd(0.1), 0.1), "optimizer must"),
            (
                lambda: stabjax.with_learning_rate(optax.sgd, None),
                "learning_rate must be a number, got None",
            ),
            (
                lambda: stabjax.with_learning_rate(optax.sgd, "0.1"),
                "learning_rate must be a number, got '0.1'",
            ),
        ],
    )
    def test_bad_arguments_are_named(self, make, message):
        with pytest.raises(TypeError, match=message):
            make()


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["body", "head"], meta_fields=[]
)
class Module:
    """What an Equinox module is: a dataclass that is a tree."""

    def __init__(self, body, head):
        self.body, self.head = body, head


class Net(nnx.Module):
    def __init__(self):
        self.body = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))


class TestGroups:
    patterns = {"*head*": "head", "*": "body"}  # noqa: RUF012
    layer = {"kernel": jnp.full(4, 10.0), "bias": None}  # noqa: RUF012

    def clip(self, group_of=None):
        return stabjax.by_group(
            {
                "head": stabjax.with_metrics(stabjax.clip_by_global_norm(0.1), "clip"),
                "body": stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), "clip"),
            },
            group_of or self.patterns,
        )

    @pytest.mark.parametrize(
        "tree",
        [
            {"body": layer, "head": layer},
            {"params": {"body": [layer, layer], "head": layer}},
            Module(layer, layer),
            nnx.state(Net()),
            nnx.to_pure_dict(nnx.state(Net())),
        ],
        ids=["dict", "nested", "dataclass", "nnx", "pure"],
    )
    @pytest.mark.parametrize("by", ["pattern", "function"])
    def test_every_container(self, tree, by):
        named = lambda path: "head" if "head" in path else "body"  # noqa: E731
        clip = self.clip(named if by == "function" else None)
        grads = jax.tree.map(lambda g: 10 * jnp.ones_like(g), tree)
        updates, state = jax.jit(clip.update)(grads, clip.init(tree))
        found = stabjax.metrics(state)
        assert found["head/clip/clipped"] and found["body/clip/clipped"]
        norms = {"head": [], "body": []}
        paths = jax.tree_util.tree_leaves_with_path(updates)
        for path, leaf in paths:
            norms[named(jax.tree_util.keystr(path))].append(leaf)
        np.testing.assert_allclose(stabjax.global_norm(norms["head"]), 0.1, rtol=1e-6)
        np.testing.assert_allclose(stabjax.global_norm(norms["body"]), 1.0, rtol=1e-6)

    def test_an_nnx_model_trains(self, standard_promotion):
        model = Net()
        tx = optax.chain(self.clip(), optax.sgd(1.0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        before = jnp.copy(model.head.kernel[...])
        loss = lambda m: m.head(m.body(jnp.ones((1, 2)))).sum() * 100  # noqa: E731
        optimizer.update(model, nnx.grad(loss)(model))
        moved = jnp.linalg.norm(model.head.kernel[...] - before)
        np.testing.assert_allclose(moved, 0.1, rtol=1e-5)
        assert "head/clip/grad_norm" in stabjax.metrics(optimizer.opt_state)

    def test_rates_and_decay_by_layer(self, standard_promotion):
        tx = stabjax.by_group(
            {
                "head": stabjax.with_learning_rate(optax.sgd, RATE),
                "body": stabjax.with_learning_rate(optax.adamw, 1e-3, weight_decay=0.1),
            },
            self.patterns,
        )
        params = {"body": jnp.ones(2), "head": jnp.ones(2)}
        updates, state = tx.update(params, tx.init(params), params)
        np.testing.assert_allclose(updates["head"], -0.5)
        np.testing.assert_allclose(updates["body"], -1e-3 * 1.1, rtol=1e-4)
        assert sorted(stabjax.metrics(state)) == [
            "body/learning_rate",
            "head/learning_rate",
        ]

    @pytest.mark.parametrize(
        "group_of, error, message",
        [
            ({"head*": "head"}, ValueError, "got None for 'body/kernel'"),
            ({"heat*": "head", "*": "body"}, ValueError, "a parameter, got 'heat"),
            ({"*": "tail"}, ValueError, r"one of \['body', 'head'\], got 'tail'"),
            (lambda path: None, ValueError, "got None for 'body/kernel'"),
            (3, TypeError, "group_of must be a dict or a function, got 3"),
        ],
    )
    def test_bad_groups_are_named(self, group_of, error, message):
        with pytest.raises(error, match=message):
            self.clip(group_of).init({"body": self.layer, "head": self.layer})
