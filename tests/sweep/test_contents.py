"""What functions hold is a part of their program: what changes is noticed."""

import functools
import gc
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax
from stabjax._sweep.contents import contents

SPACE = stabjax.grid(rate=[0.01, 0.05])
FACTOR = 1.0
CONFIG = {"inner": types.SimpleNamespace(factor=1.0)}


def square(w, key):
    del key
    return jnp.sum(w * w)


def start(key):
    del key
    return jnp.array([3.0, -4.0])


PROBLEM = stabjax.problems.Problem(start, square)


def number_in_a_cell():
    factor = 1.0

    def get():
        return factor

    def change():
        nonlocal factor
        factor = 2.0

    return get, change


def global_number():
    def change():
        global FACTOR
        FACTOR = 2.0

    return lambda: FACTOR, change


def global_number_of_a_helper():
    def helper():
        return (lambda: FACTOR)()

    def change():
        global FACTOR
        FACTOR = 2.0

    return lambda: helper(), change


def global_configuration():
    def change():
        CONFIG["inner"].factor = 2.0

    return lambda: CONFIG["inner"].factor, change


def attribute_of_a_module():
    module = types.ModuleType("settings_of_the_user")
    module.factor = 1.0
    space = {"module": module, "__name__": "notebook"}
    exec("def get():\n    return module.factor", space)
    return space["get"], functools.partial(setattr, module, "factor", 2.0)


def attribute_of_an_object():
    class Settings:
        def __init__(self):
            self.factor = 1.0

        def get(self):
            return self.factor

    settings = Settings()
    return settings.get, functools.partial(setattr, settings, "factor", 2.0)


def array_of_numpy():
    array = np.ones((3, 2))

    def change():
        array[1, 1] = 2.0

    return lambda: float(array.max()), change


def array_of_jax():
    box = [jnp.ones(3)]

    def change():
        box[0] = 2.0 * box[0]

    return lambda: box[0][0], change


def argument_of_a_partial():
    values = {"factor": 1.0}
    get = functools.partial(lambda values: values["factor"], values)
    return get, functools.partial(values.__setitem__, "factor", 2.0)


def default_argument():
    def get(factor=1.0):
        return factor

    def change():
        get.__defaults__ = (2.0,)

    return lambda: get(), change


def wrapped_function():
    values = [1.0]

    @functools.wraps(square)
    def get():
        return values[0]

    return get, functools.partial(values.__setitem__, 0, 2.0)


def method_of_a_dict():
    values = {"factor": 1.0}
    get = values.get
    return lambda: get("factor"), functools.partial(values.__setitem__, "factor", 2.0)


HOLDERS = [
    method_of_a_dict,
    number_in_a_cell,
    global_number,
    global_number_of_a_helper,
    global_configuration,
    attribute_of_a_module,
    attribute_of_an_object,
    array_of_numpy,
    array_of_jax,
    argument_of_a_partial,
    default_argument,
    wrapped_function,
]


def as_optimizer(get):
    def make_optimizer(rate):
        return optax.sgd(rate * get())

    return PROBLEM, make_optimizer


def as_problem(get):
    def make_problem():
        return stabjax.problems.Problem(start, lambda w, key: get() * square(w, key))

    return make_problem, lambda rate: optax.sgd(rate)


def as_loss(get):
    problem = stabjax.problems.Problem(start, lambda w, key: get() * square(w, key))
    return problem, lambda rate: optax.sgd(rate)


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    globals()["FACTOR"] = 1.0
    CONFIG["inner"].factor = 1.0


@pytest.mark.parametrize("role", [as_optimizer, as_problem, as_loss])
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.slow
def test_what_has_changed_gives_the_new_result(holder, role):
    get, change = holder()
    given = role(get)

    def run():
        return stabjax.sweep(*given, SPACE, steps=3).final_loss.values

    first = run()
    np.testing.assert_array_equal(run(), first)
    change()
    new = run()
    growth = 1 - 2 * 2 * np.array([0.01, 0.05])
    factor = 1 if role is as_optimizer else 2
    np.testing.assert_allclose(new, factor * 25 * growth**6, rtol=1e-5)


def test_halving_and_trainings_notice_too():
    get, change = number_in_a_cell()
    problem, make = as_loss(get)

    def halved():
        return stabjax.successive_halving(problem, make, SPACE, steps=4).best_loss

    def trained():
        return stabjax.train(problem, make(0.1), jax.random.key(0), steps=3).final_loss

    before = halved(), trained()
    change()
    after = halved(), trained()
    assert (after[0] != before[0]).all()
    assert after[1] != before[1]


def test_what_refers_to_itself_and_to_libraries_is_followed():
    class Node:
        pass

    node = Node()
    node.self, node.numpy, node.jax = node, np, jax

    def make():
        return node, optax.adamw(1e-3), make, jnp.zeros, print

    first = contents([make])
    assert contents([make]) == first
    node.value = 3
    assert contents([make]) != first


class Raising:
    """An object whose attributes and elements cannot be read."""

    def __getattr__(self, name):
        raise RuntimeError(name)


ODD = {
    "raising": Raising(),
    "empty": np.zeros((3, 0)),
    "scalar": np.array(1.0),
    "records": np.zeros(2, [("a", "i4"), ("b", "f4")]),
    "objects": np.array([1, "a", None], object),
    "bfloat16": jnp.ones(2, jnp.bfloat16),
    "strided": np.arange(12).reshape(3, 4)[:, ::2],
    "key": jax.random.key(0),
    "set": {1, "a", None},
    "nothing": types.FunctionType((lambda: None).__code__, {}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_values_have_contents(name):
    held = ODD[name]

    def make():
        return held

    assert contents([make]) == contents([make])
    hash(contents([make]))


def test_the_cost_does_not_show():
    """A factory over MNIST's size of JAX arrays, a model and Optax's optimizers."""
    images = jnp.zeros((60_000, 784), jnp.uint8)
    problem = stabjax.problems.digits_mlp()

    def make(rate):
        return optax.chain(optax.adamw(rate), optax.clip(images[0, 0]))

    contents([make, problem.init, problem.loss, problem.evaluate])
    begin = time.perf_counter()
    contents([make, problem.init, problem.loss, problem.evaluate])
    assert time.perf_counter() - begin < 0.05
    gc.collect()
