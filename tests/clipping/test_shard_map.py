"""Clipping in `shard_map`: leaves sharded over any of two axes, told by their types."""

import functools

import chex
import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import stabjax

pytestmark = pytest.mark.slow  # many programs, for eight devices

# The name of a transformation -> how to make it from its threshold and its axes.
MAKERS = {
    "clip_by_global_norm": stabjax.clip_by_global_norm,
    "clip_by_global_norm-1": functools.partial(stabjax.clip_by_global_norm, ord=1),
    "clip_by_global_norm-inf": functools.partial(
        stabjax.clip_by_global_norm, ord=np.inf
    ),
    "clip_by_block_norm": stabjax.clip_by_block_norm,
    "clip_by_block_rms": stabjax.clip_by_block_rms,
    "adaptive_grad_clip": functools.partial(
        stabjax.adaptive_grad_clip, axis=(0, 1), eps=2.0
    ),
    "smooth_clip_by_global_norm": stabjax.smooth_clip_by_global_norm,
    "clip_by_relative_update": stabjax.clip_by_relative_update,
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("d", "e"))
SPECS = {"both": P("d", "e"), "first": P("d"), "second": P(None, "e"), "none": P()}
STATED = {"both": ("d", "e"), "first": "d", "second": ("e",), "none": ()}


def tree_of(seed, magnitude=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(magnitude * rng.normal(size=(4, 6)), jnp.float32)
        for name in SPECS
    }


def on_mesh(function, specs, check_vma=True):
    return jax.jit(
        jax.shard_map(
            function,
            mesh=MESH,
            in_specs=(SPECS, SPECS),
            out_specs=specs,
            check_vma=check_vma,
        )
    )


def expected(make, threshold, grads, params):
    tx = make(threshold)
    return jax.jit(tx.update)(grads, tx.init(params), params)


@makers
@pytest.mark.parametrize("scheduled", (False, True))
def test_types_show_the_axes(make, scheduled):
    """The state of a schedule is the same on every device, or `shard_map` refuses."""
    threshold = stabjax.constant_schedule(0.1) if scheduled else 0.1
    tx = make(threshold)

    def step(grads, params):
        updates, after = tx.update(grads, tx.init(params), params)
        return updates, after

    sharded, single = on_mesh(step, (SPECS, P())), jax.jit(step)
    for magnitude in (1, 1e30, 1e-30, 0, np.nan):
        grads, params = tree_of(0, magnitude), tree_of(1)
        got = sharded(grads, params)
        one = single(grads, params)
        models.assert_close(got[0], one[0], factor=4)
        chex.assert_trees_all_close(got[1], one[1], rtol=1e-6)


@makers
def test_stated_axes_where_types_show_none(make):
    grads, params = tree_of(0), tree_of(1)
    one, _ = expected(make, 0.1, grads, params)
    for axes, check_vma in ((STATED, False), (STATED, True), (("d", "e"), True)):
        tx = make(0.1, axis_name=axes)
        got = on_mesh(lambda g, p: tx.update(g, None, p)[0], SPECS, check_vma)  # noqa: B023
        models.assert_close(got(grads, params), one, factor=4)


@makers
def test_axes_that_contradict_the_types_raise(make):
    for axes in (STATED | {"none": "d"}, STATED | {"both": "d"}):
        tx = make(0.1, axis_name=axes)
        step = on_mesh(lambda g, p: tx.update(g, None, p)[0], SPECS)  # noqa: B023
        if make is MAKERS["adaptive_grad_clip"] and axes["none"] == ():
            continue  # axes that do not split units need not be named
        with pytest.raises(ValueError, match="axis_name must contain the mesh axes"):
            step(tree_of(0), tree_of(1))


@makers
def test_groups_on_a_mesh(make):
    thresholds = {"both": 0.1, "first": 10.0, "second": 0.2, "none": 0.3}
    grads, params = tree_of(0), tree_of(1)
    tx = make(thresholds)
    got = on_mesh(lambda g, p: tx.update(g, tx.init(p), p)[0], SPECS)(grads, params)
    one, _ = expected(make, thresholds, grads, params)
    models.assert_close(got, one, factor=4)


def test_reports_are_those_of_the_whole_tree():
    for name, make in MAKERS.items():
        tx = stabjax.with_metrics(make(0.1), name="m")

        def step(grads, params):
            updates, state = tx.update(grads, tx.init(params), params)  # noqa: B023
            return updates, stabjax.metrics(state)

        grads, params = tree_of(0), tree_of(1)
        _, got = on_mesh(step, (SPECS, P()))(grads, params)
        _, one = jax.jit(step)(grads, params)
        for key, value in one.items():
            np.testing.assert_allclose(got[key], value, 1e-5, err_msg=name + key)


# Units, of which types do not show along which array axis they are split.


@pytest.mark.parametrize(
    ("axis", "axes", "spec"),
    [
        (0, "d", P("d", "e")),
        (1, "e", P("d", "e")),
        (0, (), P(None, "e")),
        (1, {"x": "e"}, P("d", "e")),
        (None, "e", P("e")),
    ],
)
def test_units_split_over_some_of_the_axes(axis, axes, spec):
    x, w = tree_of(2)["both"], tree_of(3)["both"]
    tx = stabjax.adaptive_grad_clip(0.1, axis=axis, axis_name=axes)
    got = jax.shard_map(
        lambda x, w: (
            tx.update({"x": x}, None, {"x": w})[0]["x"],
            stabjax.unitwise_norm(
                x, axis, axis_name=axes["x"] if isinstance(axes, dict) else axes
            ),
        ),
        mesh=MESH,
        in_specs=(spec, spec),
        out_specs=(spec, spec),
    )(x, w)
    one, _ = stabjax.adaptive_grad_clip(0.1, axis=axis).update(x, None, w)
    models.assert_close(got[0], one, factor=4)
    models.assert_close(got[1], stabjax.unitwise_norm(x, axis), factor=4)


def test_sharded_units_without_axes_raise():
    tx = stabjax.adaptive_grad_clip(0.1, axis=0)
    step = on_mesh(lambda g, p: tx.update(g, None, p)[0], SPECS)
    with pytest.raises(ValueError, match="axis_name must contain .* split units"):
        step(tree_of(0), tree_of(1))


def test_a_shard_that_may_be_a_vector_or_a_matrix_raises():
    tx = stabjax.adaptive_grad_clip(0.1, axis_name="d")
    step = jax.shard_map(
        lambda x: tx.update(x, None, x)[0], mesh=MESH, in_specs=P("d"), out_specs=P("d")
    )
    with pytest.raises(ValueError, match=r"axis must be given .* shape \(1, 6\)"):
        step(tree_of(0)["both"])


def test_vectors_need_no_axes():
    """A vector is one unit, however it is sharded."""
    x, w = jnp.arange(1.0, 9.0), jnp.ones(8)
    tx = stabjax.adaptive_grad_clip(0.1)
    mesh = Mesh(np.array(jax.devices()), ("d",))
    for axes in (None, (), "d"):
        tx = stabjax.adaptive_grad_clip(0.1, axis_name=axes)
        got = jax.shard_map(
            lambda x, w: tx.update(x, None, w)[0],  # noqa: B023
            mesh=mesh,
            in_specs=P("d"),
            out_specs=P("d"),
        )(x, w)
        models.assert_close(
            got, stabjax.adaptive_grad_clip(0.1).update(x, None, w)[0], factor=4
        )


PER_EXAMPLE = {
    "sum": lambda g, **axes: stabjax.per_example_global_norm_clip(g, 5.0, **axes),
    "layers": lambda g, **axes: stabjax.per_example_layer_norm_clip(g, 5.0, **axes),
    "sizes": lambda g, **axes: stabjax.per_example_layer_norm_clip(
        g, 5.0, uniform=False, **axes
    ),
    "aggregate": lambda g, **axes: updated(
        stabjax.differentially_private_aggregate(5.0, 0.0, 0, **axes), g
    ),
    "quantile": lambda g, **axes: updated(
        stabjax.adaptive_quantile_clip(5.0, **axes), g
    ),
}
examples = pytest.mark.parametrize(
    "clipped", PER_EXAMPLE.values(), ids=list(PER_EXAMPLE)
)
EXAMPLES = {"w": jnp.arange(64.0).reshape(8, 4, 2) / 9, "b": jnp.arange(8.0)}


def updated(tx, grads):
    params = jax.tree.map(lambda g: g[0], grads)
    return tx.update(grads, tx.init(params))[0]


@pytest.mark.parametrize("name", ("sum", "layers"))
def test_examples_on_their_own_devices(name):
    def summed(grads):
        return jax.lax.psum(PER_EXAMPLE[name](grads, axis_name=()), ("d", "e"))

    spec = P(("d", "e"))
    got = jax.shard_map(summed, mesh=MESH, in_specs=spec, out_specs=P())(EXAMPLES)
    chex.assert_trees_all_close(got, PER_EXAMPLE[name](EXAMPLES), rtol=1e-6)


@examples
def test_examples_of_sharded_parameters(clipped):
    specs = {"w": P(None, "d", "e"), "b": P()}
    rest = {"w": P("d", "e"), "b": P()}
    shown = jax.eval_shape(clipped, EXAMPLES)
    out_specs = (rest, P()) if isinstance(shown, tuple) else rest
    got = jax.jit(
        jax.shard_map(
            functools.partial(clipped, axis_name=("d", "e")),
            mesh=MESH,
            in_specs=(specs,),
            out_specs=out_specs,
        )
    )(EXAMPLES)
    chex.assert_trees_all_close(got, clipped(EXAMPLES), rtol=1e-5)


@examples
def test_examples_of_unknown_axes_raise(clipped):
    step = jax.shard_map(
        lambda g: jnp.sum(clipped(g)[0]), mesh=MESH, in_specs=P("d"), out_specs=P()
    )
    with pytest.raises(ValueError, match="axis_name must contain .* parameters are"):
        step(EXAMPLES)


def test_noise_of_each_shard_is_its_own():
    tx = stabjax.differentially_private_aggregate(1.0, 1.0, 0, axis_name="d")

    def noise(grads):
        return updated(tx, grads)

    specs = {"w": P(None, "d"), "b": P()}
    got = jax.shard_map(
        noise, mesh=MESH, in_specs=(specs,), out_specs={"w": P("d"), "b": P()}
    )(jax.tree.map(jnp.zeros_like, EXAMPLES))
    assert len(np.unique(got["w"])) == got["w"].size
