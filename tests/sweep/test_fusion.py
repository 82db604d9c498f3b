"""Loops with several outputs, which XLA:CPU aborts on if they are not well made."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import stabjax
from stabjax._sweep import program, program_cache
from stabjax._sweep.compiler import compiled_for
from stabjax._sweep.lanes import cpu, fusion
from stabjax._sweep.lanes.equations import flat
from stabjax._sweep.lanes.sections import sectioned
from stabjax.problems import Problem

QUADRATIC = stabjax.problems.quadratic()
DTYPES = {
    False: [np.float32, np.int32, np.uint32, np.bool_],
    True: [np.float64, np.int64, np.uint64, np.float32],
}


def looped(function, *inputs):
    """Applies a fused function twice, as the loop over steps does."""
    outputs = jax.eval_shape(function, *inputs)
    start = [jnp.zeros(x.shape, x.dtype) for x in outputs]

    def step(carried):
        t, *given = carried
        rest = given[: len(inputs)]
        return t + 1, *rest, *fusion.fused(function, *rest)

    def block(*given):
        found = lax.while_loop(lambda c: c[0] < 2, step, (0, *given))[1:]
        return [*found[len(inputs) :], *lax.optimization_barrier(given)]

    def call(*given):
        first, *rest = jax.jit(block)(*given, *start)
        marked = cpu.set_xla_metadata(
            first, xla_cpu_small_call="true", inlineable="false"
        )
        return lax.optimization_barrier([marked, *rest])[: len(outputs)]

    traced = jax.jit(call).trace(*inputs)
    return compiled_for(traced, jax.devices()[0])(*inputs)


def vectors(dtypes):
    rng = np.random.default_rng(0)
    return [rng.uniform(0, 5, 300).astype(dtype) for dtype in dtypes]


def like_inputs(x):
    """Values that XLA recognizes as the input, or as constants."""
    one, zero = lax.full_like(x, 1), lax.full_like(x, 0)
    yield from (x, one, zero, lax.convert_element_type(x, x.dtype))
    yield lax.select(lax.full(x.shape, True), x, x)
    if x.dtype == bool:
        yield from (x & x, x | x, ~~x, x & one, x | zero, x ^ zero)
        yield lax.convert_element_type(x, np.int32) != 0
        return
    yield from (
        x * one,
        x + zero,
        x - zero,
        x * zero,
        lax.neg(lax.neg(x)),
        lax.div(x, one),
    )
    yield from (lax.max(x, x), lax.select(x > x, x, x))
    if jnp.issubdtype(x.dtype, jnp.integer):
        yield from (x & x, x | x, x & ~zero, x ^ zero, lax.shift_left(x, zero))
    else:
        yield from (lax.pow(x, one), lax.reduce_precision(x, 8, 23))
        kind = f"int{8 * x.dtype.itemsize}"
        yield lax.bitcast_convert_type(lax.bitcast_convert_type(x, kind), x.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("wide", DTYPES)
def test_outputs_may_be_inputs_or_constants(wide):
    with jax.enable_x64(wide):
        given = vectors(DTYPES[wide])

        def outputs(*values):
            return [y for x in values for y in like_inputs(x)]

        expected = jax.jit(outputs)(*given)
        for x, y in zip(looped(outputs, *given), expected, strict=True):
            np.testing.assert_array_equal(x, y)


def results(a, b):
    """The results of all operations of `fusion` for the type of the inputs."""
    for name in fusion._NAMES.split():
        name = {"and": "bitwise_and", "or": "bitwise_or"}.get(name, name)
        name = {"xor": "bitwise_xor", "not": "bitwise_not"}.get(name, name)
        same = np.float32 if jnp.issubdtype(a.dtype, jnp.integer) else np.int32
        calls = {
            "bitcast_convert_type": lambda to=same: (
                a if a.dtype == bool else lax.bitcast_convert_type(a, to)
            ),
            "broadcast_in_dim": lambda: a,
            "convert_element_type": lambda: lax.convert_element_type(a, np.int32),
            "integer_pow": lambda: lax.integer_pow(a, 3),
            "round": lambda: lax.round(a),
            "select_n": lambda: lax.select_n(a > b, a, b),
        }
        options = [
            lambda f=name: getattr(lax, f)(a, b),
            lambda f=name: getattr(lax, f)(a),
        ]
        for call in [calls[name]] if name in calls else options:
            try:
                yield call()
                break
            except TypeError:
                continue


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32, np.bool_])
def test_all_operations_can_be_fused(dtype):
    a, b = vectors([dtype, dtype])
    b = b + (b == 0).astype(dtype) if dtype != np.bool_ else b  # divisor

    def outputs(a, b):
        return [*results(a, b)]

    expected = jax.jit(outputs)(a, b)
    assert len(expected) > 8
    for x, y in zip(looped(outputs, a, b), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def make_sgd(rate):
    return optax.sgd(rate)


def swept():
    def make_optimizer(rate, max_norm):
        return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))

    space = stabjax.grid(rate=np.logspace(-3, 0, 9), max_norm=[0.1, 1.0], seed=[0])
    found = stabjax.sweep(QUADRATIC, make_optimizer, space, steps=20, progress=False)
    assert found.engine == "lanes"
    return found


def test_a_fusion_that_xla_rejects_is_not_used(monkeypatch):
    expected, refused = swept(), []

    def reject(traced, device):
        if " fused[" in str(traced.jaxpr):
            refused.append(device)
            raise jax.errors.JaxRuntimeError("INTERNAL: hlo verifier")
        return compiled_for(traced, device)

    monkeypatch.setattr(program, "compiled_for", reject)
    monkeypatch.setattr(program_cache, "remembered", {})
    found = swept()
    assert len(refused) == 1  # JAX does not reuse the trace with the fusion
    np.testing.assert_allclose(found.final_loss, expected.final_loss, rtol=1e-5)


def test_a_step_of_what_trials_share_is_not_fused():
    program = jax.make_jaxpr(
        lambda w, v, t: [lax.broadcast(x, (4,)) for x in (2 * t, t + 1)]
    )(*jnp.ones((2, 4)), 3.0)
    cut = sectioned(flat(program.jaxpr, program.consts), [0, 1, 2])
    found = cut.outputs({**cut.prepare({}), 2: jnp.float32(3)})
    np.testing.assert_array_equal(found, [[6] * 4, [4] * 4])


def test_a_rounding_of_bfloat16_stays():
    """NumPy has no limits of bfloat16."""

    def loss(w, key):
        return jnp.sum(lax.reduce_precision(w.astype(jnp.bfloat16), 5, 4) ** 2)

    problem = Problem(lambda key: jnp.array([1.3, -0.7]), loss)
    space = stabjax.grid(rate=[0.01, 0.1], seed=[0])
    found = stabjax.sweep(problem, make_sgd, space, steps=5, progress=False)

    def final_loss(rate):
        key = jax.random.key(0)
        return stabjax.train(problem, make_sgd(rate), key, steps=5).final_loss

    expected = jax.vmap(final_loss)(jnp.array([0.01, 0.1]))
    np.testing.assert_allclose(found.final_loss[:, 0], expected, rtol=1e-2)


def test_an_unknown_version_has_no_fusions(monkeypatch):
    given = ["add"], [np.float32], 4, 2
    assert fusion.is_fusible(*given)
    monkeypatch.setattr(fusion.version, "__version__", "1.0.3")
    assert not fusion.is_fusible(*given)
    monkeypatch.undo()
    assert not fusion.is_fusible(["atan"], *given[1:])
    assert not fusion.is_fusible(["add"], [jnp.bfloat16], 4, 2)
    assert not fusion.is_fusible(["add"], [np.float32], 40, 8)
