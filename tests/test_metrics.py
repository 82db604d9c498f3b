"""Metrics: what they say, from wherever a state may stand."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx, serialization
from flax.core import FrozenDict

import stabjax
from stabjax._paths import leaf_paths

PARAMS = {"a": jnp.zeros(2), "b": jnp.zeros(())}
GRADS = {"a": jnp.array([3.0, 4.0]), "b": jnp.array(0.0)}
FIELDS = ("clip_fraction", "clipped", "grad_norm", "update_norm")


def watched(name="clip", max_norm=1.0):
    return stabjax.with_metrics(stabjax.clip_by_global_norm(max_norm), name=name)


def updated(tx, grads=GRADS, times=1):
    state = tx.init(PARAMS)
    for _ in range(times):
        _, state = tx.update(grads, state, PARAMS)
    return state


def test_norms_before_and_after_and_how_often_it_clipped():
    tx = watched(max_norm=2.0)
    state = tx.init(PARAMS)
    assert {k: float(v) for k, v in stabjax.metrics(state).items()} == {
        f"clip/{field}": 0.0 for field in FIELDS
    }
    small = jax.tree.map(lambda g: 0.1 * g, GRADS)
    expected = [(5.0, 2.0, True, 1.0), (0.5, 0.5, False, 0.5), (5.0, 2.0, True, 2 / 3)]
    for grads, (before, after, clipped, share) in zip(
        [GRADS, small, GRADS], expected, strict=True
    ):
        _, state = jax.jit(tx.update)(grads, state)
        found = stabjax.metrics(state)
        np.testing.assert_allclose(found["clip/grad_norm"], before, rtol=1e-6)
        np.testing.assert_allclose(found["clip/update_norm"], after, rtol=1e-6)
        assert bool(found["clip/clipped"]) is clipped
        np.testing.assert_allclose(found["clip/clip_fraction"], share, rtol=1e-6)


def test_the_updates_are_those_of_the_wrapped_transformation():
    plain, _ = stabjax.clip_by_global_norm(1.0).update(GRADS, optax.EmptyState())
    updates, _ = watched().update(GRADS, watched().init(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, updates, plain)


def test_a_gradient_that_is_not_finite_shows_and_does_not_count_as_clipped():
    state = updated(watched(), {"a": jnp.array([jnp.inf, 1.0]), "b": jnp.array(0.0)})
    found = stabjax.metrics(state)
    assert found["clip/grad_norm"] == jnp.inf
    assert jnp.isnan(found["clip/update_norm"])
    assert not found["clip/clipped"]


HARD = np.array([3.0, -4.0, 0.0, 12.0])
HARD_GRADS = {
    "ordinary": HARD,
    "below": 1e-3 * HARD,
    "zero": 0.0 * HARD,
    "overflowing squares": 1e25 * HARD,
    "norm beyond the dtype": np.array([3e38, 3e38, 3e38, 0.0]),
    "underflowing squares": 1e-30 * HARD,
    "nan": np.array([1.0, np.nan, 2.0, 3.0]),
    "inf": np.array([1.0, np.inf, 2.0, 3.0]),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("grads", HARD_GRADS.values(), ids=HARD_GRADS)
def test_what_a_clip_tells_is_what_would_be_measured(grads, dtype):
    tree = {"a": jnp.asarray(grads[:3], dtype), "b": jnp.asarray(grads[3:], dtype)}

    @jax.jit
    def both(max_norm):
        clip = stabjax.clip_by_global_norm(max_norm)
        seen = []
        for transformation in (clip, optax.chain(clip)):  # the latter tells nothing
            tx = stabjax.with_metrics(transformation, name="clip")
            seen.append(tx.update(tree, tx.init(tree))[1].metrics)
        return seen

    for max_norm in (1.0, 1e-3, 0.0, 1e20, np.inf):
        told, measured = both(jnp.float32(max_norm))
        for name, value in measured.items():
            np.testing.assert_allclose(told[name], value, rtol=3e-7, err_msg=name)


def test_copies_of_a_clip_are_measured_where_they_tell_nothing():
    clip = stabjax.clip_by_global_norm(1.0)
    halved = optax.chain(clip, optax.scale(jnp.float32(0.5)))
    made_of_leaves = jax.tree.map(lambda function: function, clip)
    changed = clip._replace(init=halved.init, update=halved.update)
    for copied, norm in ((made_of_leaves, 1.0), (changed, 0.5)):
        found = stabjax.metrics(updated(stabjax.with_metrics(copied, name="clip")))
        assert found["clip/update_norm"] == pytest.approx(norm)
        assert found["clip/clipped"]


def test_a_clip_is_asked_and_not_measured():
    def sums(transformation):
        tx = stabjax.with_metrics(transformation, "clip")
        program = jax.make_jaxpr(tx.update)(GRADS, tx.init(GRADS))
        return str(program).count("reduce_sum")

    clip = stabjax.clip_by_global_norm(1.0)
    assert 0 < sums(clip) < sums(optax.chain(clip))


def test_element_wise_clipping_of_one_entry_counts():
    tx = stabjax.with_metrics(stabjax.clip(3.5), name="clip")
    assert stabjax.metrics(updated(tx))["clip/clipped"]


def test_extra_arguments_reach_the_wrapped_transformation():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx = optax.chain(stabjax.with_metrics(inner, name="x"), optax.scale(-1.0))
    tx.update(GRADS, tx.init(PARAMS), PARAMS, value=jnp.array(2.0))
    assert seen["value"] == 2.0


PLACES = {
    "alone": lambda: watched(),
    "chain": lambda: optax.chain(optax.scale(1.0), watched(), optax.scale(-0.1)),
    "masked": lambda: optax.masked(watched(), {"a": True, "b": False}),
    "multi_transform": lambda: optax.multi_transform(
        {"one": watched(), "two": optax.set_to_zero()}, {"a": "one", "b": "two"}
    ),
    "MultiSteps": lambda: optax.MultiSteps(watched(), 2).gradient_transformation(),
    "inject_hyperparams": lambda: optax.inject_hyperparams(
        lambda rate: optax.chain(watched(), optax.scale(-rate))
    )(rate=0.1),
    "nested": lambda: optax.chain(optax.masked(optax.chain(watched()), True)),
}


@pytest.mark.parametrize("place", PLACES)
def test_metrics_are_found_wherever_the_state_stands(place, standard_promotion):
    found = stabjax.metrics(updated(PLACES[place](), times=2))
    assert {name for name in found if name.startswith("clip/")} == {
        f"clip/{field}" for field in FIELDS
    }
    np.testing.assert_allclose(found["clip/grad_norm"], 5.0, rtol=1e-6)
    assert all(jnp.ndim(value) == 0 for value in found.values())


def test_current_hyperparameters_are_metrics(standard_promotion):
    schedule = stabjax.linear_schedule(1.0, 0.0, transition_steps=4)
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule, momentum=0.9)
    found = stabjax.metrics(updated(tx, times=2))
    # The rate that the second update used, at count 1.
    assert float(found["learning_rate"]) == 0.75
    assert float(found["momentum"]) == pytest.approx(0.9)


@pytest.mark.parametrize(
    "value",
    [
        optax.adam(0.1),
        optax.adam(0.1).init,
        nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
        nn.Dense(2),
        {"a": "adam"},
    ],
)
def test_what_is_no_state_is_an_error(value):
    message = f"must be an optimizer state .*, got {type(value).__name__}"
    with pytest.raises(TypeError, match=message):
        stabjax.metrics(value)


def test_states_without_metrics_have_none():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    for state in (optimizer, optimizer.opt_state, nnx.state(optimizer), (), None):
        assert stabjax.metrics(state) == {}


def test_a_module_that_is_called_hyperparams_is_no_metric():
    params = {"hyperparams": {"w": jnp.ones(2)}, "metrics": {"w": jnp.ones(2)}}
    assert stabjax.metrics(optax.adam(1e-3).init(params)) == {}
    injected = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
    assert stabjax.metrics(injected.init(params))["learning_rate"] == 1e-3


def test_a_scheduled_threshold_publishes_itself():
    tx = stabjax.clip_by_global_norm(stabjax.linear_schedule(8.0, 0.0, 4))
    found = stabjax.metrics(updated(tx, times=3))
    assert {k: round(float(v), 4) for k, v in found.items()} == {
        "clip_by_global_norm/max_norm": 4.0,
        "clip_by_global_norm/clipped": 1.0,
        "clip_by_global_norm/clip_fraction": 0.3333,
    }


FALLING = stabjax.linear_schedule(1.0, 0.1, 100)
TWICE = {  # an optimizer with two transformations of one name, and what is in front
    "chain": (
        lambda: optax.chain(watched(max_norm=2.0), optax.scale(1.0), watched()),
        ["0/clip", "2/clip"],
    ),
    "three, nested": (
        lambda: optax.chain(watched(), optax.chain(watched(), watched())),
        ["0/clip", "1/0/clip", "1/1/clip"],
    ),
    "named_chain": (
        lambda: optax.named_chain(("grads", watched()), ("updates", watched())),
        ["grads/clip", "updates/clip"],
    ),
    "each other": (
        lambda: stabjax.with_metrics(watched(), name="clip"),
        ["clip", "inner_state/clip"],
    ),
    "guard in guard": (
        lambda: stabjax.skip_if_nonfinite(
            stabjax.skip_if_nonfinite(optax.chain(optax.sgd(0.1)))
        ),
        ["inner_state/skip_if_nonfinite", "skip_if_nonfinite"],
    ),
    "history": (
        lambda: optax.chain(stabjax.zclip(), optax.scale(1.0), stabjax.zclip()),
        ["0/zclip", "2/zclip"],
    ),
    "scheduled": (
        lambda: optax.chain(
            stabjax.clip_by_global_norm(FALLING), stabjax.clip_by_global_norm(FALLING)
        ),
        ["0/clip_by_global_norm", "1/clip_by_global_norm"],
    ),
    "name given and own": (
        lambda: optax.chain(stabjax.zclip(), watched("zclip")),
        ["0/zclip", "1/zclip"],
    ),
    "masked": (
        lambda: optax.chain(
            optax.masked(watched(), {"a": True, "b": False}),
            optax.masked(watched(), {"a": False, "b": True}),
        ),
        ["0/clip", "1/clip"],
    ),
    "a name that reads like a place": (
        lambda: optax.chain(watched(), watched(), watched("0/clip")),
        ["0%2Fclip", "0/clip", "1/clip"],
    ),
}


@pytest.mark.parametrize("which", TWICE)
def test_two_of_one_name_are_told_apart_by_their_places(which):
    make, owners = TWICE[which]
    state = updated(make())
    found = stabjax.metrics(state)
    assert sorted({name.rpartition("/")[0] for name in found}) == sorted(owners)
    held = [path for path in leaf_paths(state) if "metrics" in path]
    assert len(found) == len(held)
    assert not any("/" in key for path in held for key in path)


def test_names_keep_from_init_to_update_and_in_other_forms_of_the_state():
    tx = optax.chain(watched(), optax.scale(1.0), watched())
    before, state = tx.init(PARAMS), updated(tx)
    forms = [before, state, serialization.to_state_dict(state), jax.device_get(state)]
    names = [list(stabjax.metrics(form)) for form in forms]
    assert names == [names[0]] * len(forms)


def test_rates_of_two_groups_are_told_apart(standard_promotion):
    def group(rate, which):
        tx = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
        return optax.masked(tx, {key: key == which for key in "ab"})

    found = stabjax.metrics(updated(optax.chain(group(0.1, "a"), group(0.2, "b"))))
    np.testing.assert_allclose(found["0/learning_rate"], 0.1)
    np.testing.assert_allclose(found["1/learning_rate"], 0.2)


def test_a_guard_in_a_guard_is_checked():
    guards = stabjax.skip_if_nonfinite(stabjax.skip_if_nonfinite(optax.sgd(0.1)))
    state = updated(guards, {"a": jnp.full(2, jnp.nan), "b": jnp.array(0.0)})
    with pytest.raises(RuntimeError, match="nonfinite found 1 consecutive bad step"):
        stabjax.check_guards(state, PARAMS, max_consecutive=0)


def test_equal_names_in_two_groups_carry_the_label_of_the_group():
    tx = optax.multi_transform(
        {"one": watched(), "two": watched()}, {"a": "one", "b": "two"}
    )
    found = stabjax.metrics(updated(tx))
    assert set(found) == {f"{g}/clip/{f}" for g in ("one", "two") for f in FIELDS}
    assert float(found["one/clip/grad_norm"]) == 5.0
    assert float(found["two/clip/grad_norm"]) == 0.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Flax's own
def test_metrics_of_the_states_that_flax_nnx_hands_out(standard_promotion):
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    tx = optax.chain(watched(), optax.inject_hyperparams(optax.sgd)(learning_rate=0.5))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    loss = nnx.grad(lambda m: jnp.sum(m(jnp.ones((1, 2))) ** 2) + 1.0)
    optimizer.update(model, loss(model))
    states = [optimizer.opt_state, nnx.state(optimizer), nnx.split(optimizer)[1]]
    states.append(nnx.to_pure_dict(nnx.state(optimizer)))
    found = [stabjax.metrics(state) for state in states]
    for metrics in found:
        assert set(metrics) == {"learning_rate", *(f"clip/{f}" for f in FIELDS)}
        np.testing.assert_allclose(metrics["learning_rate"], 0.5)
        assert metrics["clip/grad_norm"] == found[0]["clip/grad_norm"] > 0


@pytest.mark.slow
def test_scheduled_numbers_show_the_values_that_were_used(standard_promotion):
    rate = stabjax.wsd_schedule(0.1, 2, 2, 4)
    momentum = stabjax.linear_schedule(0.5, 0.9, 4)
    threshold = stabjax.cosine_decay_schedule(2.0, 6)
    tx = optax.chain(
        stabjax.clip_by_global_norm(threshold),
        optax.inject_hyperparams(optax.adamw)(rate, b1=momentum, weight_decay=0.01),
    )

    def step(state, _):
        _, state = tx.update(GRADS, state, PARAMS)
        return state, stabjax.metrics(state)

    _, seen = jax.jit(lambda: jax.lax.scan(step, tx.init(PARAMS), length=8))()
    counts = jnp.arange(8)
    for name, schedule in {
        "learning_rate": rate,
        "b1": momentum,
        "clip_by_global_norm/max_norm": threshold,
    }.items():
        np.testing.assert_allclose(seen[name], schedule(counts), 1e-6, 1e-7)
    np.testing.assert_allclose(seen["weight_decay"], 0.01)


def test_inside_jit_scan_and_vmap():
    tx = watched()

    def step(state, grads):
        _, state = tx.update(grads, state)
        return state, stabjax.metrics(state)

    scales = jnp.array([1.0, 0.1, 1.0])
    many = jax.tree.map(lambda g: jnp.stack([s * g for s in scales]), GRADS)
    _, kept = jax.jit(lambda g: jax.lax.scan(step, tx.init(PARAMS), g))(many)
    np.testing.assert_allclose(kept["clip/grad_norm"], [5.0, 0.5, 5.0], rtol=1e-6)
    np.testing.assert_array_equal(kept["clip/clipped"], [True, False, True])

    _, batch = jax.vmap(step, (None, 0))(tx.init(PARAMS), many)
    np.testing.assert_allclose(batch["clip/update_norm"], [1.0, 0.5, 1.0], rtol=1e-6)


def test_the_state_never_changes_structure():
    tx = watched()
    before = tx.init(PARAMS)
    _, after = tx.update(GRADS, before)
    describe = functools.partial(jax.tree.map, operator.attrgetter("shape", "dtype"))
    assert describe(before) == describe(after)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, "clip"), "transformation must be an optax.GradientTransformation"),
        ((optax.sgd(0.1), ""), "name must be a non-empty string, got ''"),
        ((optax.sgd(0.1), 3), "name must be a non-empty string, got 3"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        stabjax.with_metrics(*arguments)


def test_norms_by_path_on_request():
    tx = stabjax.with_metrics(stabjax.clip(1.0), name="clip", per_leaf=True)
    grads = {"dense": {"b": jnp.array([3.0, 4.0]), "k": jnp.array(jnp.inf)}}
    state = tx.init(grads)
    before = stabjax.metrics(state)
    _, state = tx.update(grads, state)
    after = stabjax.metrics(state)
    assert after.keys() == before.keys()
    assert before["clip/grad_norm/dense/b"] == 0
    assert after["clip/grad_norm/dense/b"] == 5
    assert after["clip/grad_norm/dense/k"] == jnp.inf


@dataclasses.dataclass
class Layer:
    kernel: jax.Array
    bias: jax.Array


jax.tree_util.register_dataclass(Layer, ["kernel", "bias"], [])
CONTAINERS = {
    "slashes": (
        {"a/b": jnp.array([3.0]), "a": {"b": jnp.array([4.0]), "c": jnp.array([5.0])}},
        {"a%2Fb": 3.0, "a/b": 4.0, "a/c": 5.0},
    ),
    "slash alone": ({"mlp/~/linear": {"w": jnp.ones(1)}}, {"mlp/~/linear/w": 1.0}),
    "list": ([jnp.ones(1), (jnp.zeros(1),)], {"0": 1.0, "1/0": 0.0}),
    "FrozenDict": (FrozenDict({"a": {"b": jnp.ones(1)}}), {"a/b": 1.0}),
    "dataclass": (
        {"l": Layer(jnp.ones(1), jnp.zeros(1))},
        {"l/kernel": 1, "l/bias": 0},
    ),
    "one array": (jnp.ones(1), {}),  # its norm is the total
    "masked": ({"a": optax.MaskedNode(), "b": jnp.ones(1), "c": None}, {"b": 1.0}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_leaf_has_a_name_of_its_own(container):
    grads, expected = CONTAINERS[container]
    tx = optax.chain(
        stabjax.with_metrics(stabjax.clip(9.0), name="c", per_leaf=True),
        optax.scale(1.0),
    )
    state = tx.init(grads)
    before = sorted(stabjax.metrics(state))
    found = stabjax.metrics(jax.jit(tx.update)(grads, state)[1])
    assert sorted(found) == before
    norms = {
        name.partition("c/grad_norm/")[2]: float(norm)
        for name, norm in found.items()
        if "grad_norm/" in name
    }
    assert norms == expected


@pytest.mark.slow
def test_leaves_of_an_nnx_model_keep_their_names(standard_promotion):
    layers = (nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0)))
    model = nnx.Sequential(*layers)
    tx = stabjax.with_metrics(stabjax.clip_by_global_norm(1.0), "clip", per_leaf=True)
    guarded = stabjax.skip_if_nonfinite(optax.chain(tx, optax.sgd(0.1)))
    optimizer = nnx.Optimizer(model, guarded, wrt=nnx.Param)
    before = sorted(stabjax.metrics(optimizer.opt_state))
    optimizer.update(model, nnx.grad(lambda m: m(jnp.ones((5, 3))).sum())(model))
    found = stabjax.metrics(optimizer.opt_state)
    assert sorted(found) == before
    assert "clip/grad_norm/layers/1/bias" in found


def test_two_of_one_name_are_recorded_in_a_sweep():
    def make_optimizer(max_norm):
        clips = stabjax.zclip(max_norm=max_norm), stabjax.zclip(max_norm=10 * max_norm)
        return optax.chain(clips[0], optax.scale(-0.1), clips[1])

    space = stabjax.grid(max_norm=[0.1, 1.0])
    runs = stabjax.sweep(
        stabjax.problems.quadratic(),
        make_optimizer,
        space,
        steps=3,
        record_every=1,
        progress=False,
    )
    assert (runs["0_zclip_grad_norm"] > runs["2_zclip_grad_norm"]).all()


def test_a_boxed_parameter_of_linen_has_the_name_of_the_plain_one():
    """Large trainers make the state from boxed parameters and update plain ones."""
    kernel = nn.with_partitioning(nn.initializers.ones, (None, "x"))
    logical = nn.with_logical_partitioning(nn.initializers.ones, (None, "x"))
    for init in (kernel, logical):
        model = nn.Dense(3, kernel_init=init)
        boxed = model.init(jax.random.key(0), jnp.ones((1, 2)))["params"]
        plain = nn.unbox(boxed)
        clip = stabjax.clip_by_global_norm(1.0)
        tx = stabjax.with_metrics(clip, "clip", per_leaf=True)
        state = tx.init(boxed)
        assert sorted(stabjax.metrics(state)) == sorted(stabjax.metrics(tx.init(plain)))
        _, state = tx.update(plain, state)
        assert float(stabjax.metrics(state)["clip/grad_norm/kernel"]) > 0
        groups = {"a": stabjax.clip(1.0), "b": stabjax.clip(2.0)}
        grouped = stabjax.by_group(groups, {"kernel": "a", "*": "b"})
        grouped.init(boxed)
        grouped.update(plain, grouped.init(plain))


def test_a_function_among_parameters_is_named():
    params = {"w": jnp.ones(2), "act": jax.nn.relu}
    for tx in (stabjax.zclip(), stabjax.skip_if_nonfinite(optax.sgd(0.1))):
        with pytest.raises(TypeError, match="must contain arrays, got relu at 'act'"):
            tx.init(params)
