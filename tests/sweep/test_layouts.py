"""Layouts: the values of the plain program, and no transposes in the loop of an MLP."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from trainings import assert_same_bits

import stabjax
from stabjax._catalogue import PROBLEMS
from stabjax._sweep.layouts import programs, with_layouts
from stabjax._train.state import Rules
from stabjax._train.trial import training

pytestmark = pytest.mark.usefixtures("standard_promotion")
# The problems of the catalogue whose programs have matrix products.
PRODUCTS = (
    *("adding", "boundary_mlp", "char_transformer", "deep_linear", "digits_cnn"),
    *("digits_mlp", "quadratic_deep", "random_quadratic", "temporal_order"),
)


@pytest.fixture
def always(monkeypatch):
    """Changes every program, whether it is worth it or not."""
    monkeypatch.setattr(programs, "_WORTH", np.inf)


def over_trials(trial, values, own):
    axes = ({name: 0 if name in own else None for name in values},)
    return jax.vmap(trial, axes)


def check(trial, values, own, rtol=1e-5, atol=1e-5):
    """The changed function under vmap returns the values of the original."""
    changed = over_trials(with_layouts(trial, own), values, own)
    expected = jax.jit(over_trials(trial, values, own))(values)
    found = jax.jit(changed)(values)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol, atol)
    return text_of(changed, values)


def text_of(function, values):
    return str(jax.make_jaxpr(function)(values))


def old_bits():
    """Random bits that depend on a setting at the time of tracing."""
    with jax.threefry_partitionable(False):
        return jax.random.bits(jax.random.key(0), (4,))


def noisy(h, m):
    """A loop with a key in its state, and with keys and products in its outputs."""

    def body(state, _):
        (key, h), (key, new) = state, jax.random.split(state[0])
        noise = jax.random.normal(new, (5, 1))
        return (key, jnp.tanh(h @ m) + noise), (key, h.T)

    (key, h), (keys, stacked) = lax.scan(body, (jax.random.key(0), h), length=3)
    return jax.random.key_data(key), h, jax.random.key_data(keys), stacked


@jax.custom_vjp
def custom(h, m):
    return jnp.sin(h) @ m


custom.defvjp(
    lambda h, m: (custom(h, m), (h, m)), lambda given, g: (g @ given[1], given[1])
)


# Functions of a 5 x 3 product h, which is stored as 3 x 5, and of 3 x 3 weights.
CASES = {
    "numbers as bits": lambda h, m: (
        lax.bitcast_convert_type(lax.bitcast_convert_type(h, np.int32) & -8, h.dtype),
        lax.bitcast_convert_type(h, np.uint8).astype(h.dtype)[..., 0],
    ),
    "elementwise": lambda h, m: (h * 2 - h[:, :1], jnp.where(h > 0, h, 1.0) + h[0]),
    "reductions": lambda h, m: (h.max(1), h.sum(0), jnp.argmax(h, 1), (h > 0).all()),
    "broadcasts": lambda h, m: (h + h.sum(1)[:, None], jnp.stack([h, h + 1])),
    "reshapes": lambda h, m: (h[:, None].squeeze(1), h.reshape(5, 1, 3, 1), h.ravel()),
    "transposes": lambda h, m: (h.T, h[:, None].transpose(2, 1, 0)),
    "others": lambda h, m: (jnp.cumsum(h, 1), jnp.sort(h, 0), h[1:, ::2], h[::-1]),
    "calls": lambda h, m: (jax.nn.relu(h), jax.jit(jnp.sin)(h), jax.nn.softmax(h)),
    "products": lambda h, m: (h @ m, h @ h.T, h.T @ h, jnp.tensordot(h, h), m.T @ m),
    "batched": lambda h, m: jnp.einsum(
        "bi,bij,jk->kb", h, h[:, :, None] * h[:, None], m
    ),
    "precise": lambda h, m: jnp.matmul(h, m, precision=("highest", "default")),
    "scan": lambda h, m: lax.scan(
        lambda c, row: (jnp.tanh(c @ m + row), c.T), h, h[:4, None], reverse=True
    ),
    "unsettled": lambda h, m: lax.fori_loop(0, 3, lambda _, c: c.T + 1, h.T @ h),
    "while": lambda h, m: lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ m + 9, h),
    "cond": lambda h, m: lax.cond(h.sum() > 0, lambda h: h @ m, lambda h: h + 1, h),
    "checkpoint": lambda h, m: jax.checkpoint(lambda h: jnp.sin(h @ m))(h),
    "barrier": lambda h, m: lax.optimization_barrier((h @ m, h)),
    "bits": lambda h, m: (h @ m, old_bits()),
    "keys": lambda h, m: noisy(h, m),
    "literals": lambda h, m: lax.scan(
        lambda c, _: ((c[0] @ m, c[0], 2.0 * c[2]), 1), (h, h, 1.0), length=3
    ),
    "unused": lambda h, m: lax.switch(
        jnp.argmax(h[0]), [lambda h, m: (h, h, 1), lambda h, m: (h @ m, h, 2)], h, m
    ),
    "several": lambda h, m: (lax.sort((h, h @ m), 0), lax.top_k(h.T, 2)),
    "custom": lambda h, m: jax.grad(lambda h: custom(h, m).sum())(h),
    "callback": lambda h, m: jax.pure_callback(
        np.sin, jax.ShapeDtypeStruct((3, 5), h.dtype), h.T, vmap_method="expand_dims"
    ),
    "nothing": lambda h, m: (h[:0] @ m, h[:, :0] @ m[:0], h[:0].sum(0), h[:0, None]),
    "numbers": lambda h, m: (
        jnp.abs(lax.complex(h, h + 1) @ m.astype(complex)),
        jnp.matmul(h > 0, m > 0, preferred_element_type=jnp.int32),
        lax.clamp(0.0, h, h.max()),
    ),
    "linear algebra": lambda h, m: (
        jnp.linalg.inv(h.T @ h + jnp.eye(3)),
        jnp.linalg.qr(h @ m)[1] ** 2,
        jnp.abs(jnp.fft.fft2(h.T)),
    ),
    "gradient": jax.grad(lambda h, m: jnp.sum(jnp.tanh(h @ m) @ m.T), (0, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_operations_have_the_values_of_the_plain_program(case, always):
    random = np.random.default_rng(0)
    shapes = {"w": (2, 4, 3), "x": (5, 4), "m": (2, 3, 3)}
    values = {
        name: jnp.asarray(random.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }

    def trial(values):
        return CASES[case](values["x"] @ values["w"], values["m"])

    text = check(trial, values, {"w", "m"})
    assert text != text_of(over_trials(trial, values, {"w", "m"}), values)
    if jax.__version_info__ >= (0, 10):  # JAX 0.8 also broadcasts constants
        assert "(5, 3)" not in text


@pytest.mark.parametrize("steps", [1, 1000])
def test_the_number_of_steps_does_not_change_the_decision(steps):
    """The loop with the largest state decides, not the one with most iterations."""

    def trial(values):
        def step(w, _):
            return w + 0.1 * x.T @ jnp.tanh(x @ w), None

        def measured(total, h):
            return total + lax.cumsum(jnp.tanh(h @ values["w"][:, :2]), 1).sum(), None

        x = jnp.ones((8, 64))
        w, _ = lax.scan(step, values["w"], length=steps)
        return w, lax.scan(measured, 0.0, jnp.ones((100, 200, 64)))[0]

    values = {"w": jnp.zeros((3, 64, 32))}
    text = check(trial, values, {"w"})
    assert text != text_of(over_trials(trial, values, {"w"}), values)


def test_what_another_version_of_jax_has_changed_stays_the_same(always, monkeypatch):
    def missing(equation, kinds):
        raise KeyError("num_consts")

    values, own = {"w": jnp.ones((2, 4, 3)), "x": jnp.ones((5, 4))}, {"w"}

    def trial(values):
        return lax.fori_loop(0, 2, lambda _, h: h + 1, values["x"] @ values["w"])

    plain = text_of(over_trials(trial, values, own), values)
    assert check(trial, values, own) != plain
    monkeypatch.setitem(programs._RULES, "scan", missing)
    assert check(trial, values, own) == plain


def steps_of(name, count=2):
    """A function that trains a problem for a few steps."""
    problem = PROBLEMS[name]()

    def trial(values):
        key = jax.random.key(values["seed"])
        start, step, *_ = training(problem, optax.sgd(values["rate"]), key, Rules())
        state, _ = lax.scan(lambda s, _: (step(s)[0], None), start, length=count)
        return state.params, state.best_loss

    return trial


@pytest.mark.slow
@pytest.mark.parametrize("name", PRODUCTS)
def test_problems_have_the_values_of_the_plain_program(name, always):
    values = {"rate": jnp.array([0.01, 0.1]), "seed": jnp.array(0)}
    trial, own = steps_of(name), {"rate"}
    text = check(trial, values, own, 1e-4, 1e-5)
    assert text != text_of(over_trials(trial, values, own), values)


def transposed(jaxpr, inside=False):
    """The sizes of the arrays that are transposed in loops."""
    found = []
    for equation in jaxpr.eqns:
        if inside and equation.primitive.name == "transpose":
            found.append(equation.invars[0].aval.size)
        loops = inside or equation.primitive.name in ("scan", "while")
        for inner in programs.programs(equation.params):
            found += transposed(inner, loops)
    return found


@pytest.mark.parametrize("own", [{"rate"}, {"rate", "seed"}])
def test_the_step_of_an_mlp_transposes_no_weights_of_the_first_layer(own):
    values = {"rate": jnp.zeros(3), "seed": jnp.zeros(3 if "seed" in own else (), int)}
    steps = steps_of("digits_mlp", count=100)
    trial = over_trials(with_layouts(steps, own), values, own)
    plain = over_trials(steps, values, own)
    assert max(transposed(jax.make_jaxpr(trial)(values).jaxpr)) <= 3 * 64 * 10
    assert max(transposed(jax.make_jaxpr(plain)(values).jaxpr)) >= 3 * 64 * 32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adding", "char_transformer", "digits_cnn"])
def test_programs_with_other_transposes_stay_the_same(name):
    values = {"rate": jnp.zeros(3), "seed": jnp.array(0)}
    trial, own = steps_of(name), {"rate"}
    changed = over_trials(with_layouts(trial, own), values, own)
    plain = over_trials(trial, values, own)
    assert text_of(changed, values) == text_of(plain, values)


def make_optimizer(rate):
    return optax.chain(stabjax.clip_by_global_norm(1.0), optax.adam(rate))


@pytest.mark.slow
def test_an_mlp_has_the_same_bits_on_two_devices_and_in_a_rerun():
    problem = stabjax.problems.digits_mlp()
    space = stabjax.grid(rate=[1e-3, 1e-2, 1e-1], seed=range(2))
    call = {"steps": 2, "chunk_size": 3, "progress": False}
    alone, both = (
        stabjax.sweep(problem, make_optimizer, space, devices=devices, **call)
        for devices in (jax.devices()[:1], jax.devices()[:2])
    )
    assert_same_bits(alone, both)
    for point in ({"rate": 1e-2, "seed": 0}, {"rate": 1e-1, "seed": 1}):
        run = stabjax.runs.rerun(problem, make_optimizer, alone, point)
        assert run.final_loss == alone.final_loss.sel(point).item()


def deep(w):
    """A network whose products are worth another order."""
    return jnp.tanh(jnp.ones((8, 64)) @ w).sum()


def costly(w):
    """Operations that need the original order of weights."""
    return deep(w) + sum(lax.cumsum(w, k % 2).sum() for k in range(8))


@pytest.mark.parametrize(("in_step", "after"), [(deep, costly), (costly, deep)])
@pytest.mark.parametrize(
    "call",
    [
        {"record_every": 1},
        {"record_every": 3},
        {"evaluate_every": 1},
        {"evaluate_every": 2},
        {"evaluate_every": 4, "record_every": 2},
        {"evaluate_every": 2, "stop": stabjax.EarlyStopping("total", maximize=False)},
    ],
    ids=str,
)
def test_records_and_evaluations_do_not_change_the_decision(call, in_step, after):
    """The training step decides, in the innermost loop over the state of a run."""
    problem = stabjax.problems.Problem(
        lambda key: jnp.zeros((64, 32)),
        lambda w, key: in_step(w),
        lambda w, key: {"total": after(w)},
    )

    def changes(**call):
        def trial(values):
            optimizer = optax.sgd(values["rate"])
            run = stabjax.train(problem, optimizer, jax.random.key(0), steps=8, **call)
            return run.params

        values = {"rate": jnp.zeros(3)}
        trials = over_trials(with_layouts(trial, values), values, {"rate"})
        plain = over_trials(trial, values, {"rate"})
        return text_of(trials, values) != text_of(plain, values)

    assert changes() == (in_step is deep)
    assert changes(**call) == (in_step is deep)
