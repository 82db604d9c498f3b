"""Every schedule pickles, and every state of a rule survives a checkpoint."""

import cloudpickle
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from battery_compat import SCHEDULES

from stabjax.compat import torch
from stabjax.compat.huggingface import get_scheduler

pytestmark = pytest.mark.slow  # many rows, in many contexts


@pytest.mark.parametrize("row", SCHEDULES, ids=str)
def test_a_schedule_pickles(row):
    """Also after its first call, which may have compiled something."""
    schedule = row.make(**row.numbers)
    value = schedule(5)
    again = cloudpickle.loads(cloudpickle.dumps(schedule))
    np.testing.assert_array_equal(again(5), value)


def greedy(**kwargs):
    return get_scheduler("greedy", 0.1, scheduler_specific_kwargs=kwargs)


RULES = {
    "reduce_lr_on_plateau": torch.reduce_lr_on_plateau(0.1, factor=0.5, patience=0),
    "greedy": greedy(),
    "greedy-smooth": greedy(smooth=True, window_size=3),
}


@pytest.fixture(params=RULES)
def rule(request):
    """A transformation, and its state after three metrics."""
    transformation = RULES[request.param]
    state = transformation.init(jnp.ones(3))
    for value in (1.0, 2.0, 3.0):
        _, state = transformation.update(jnp.ones(3), state, value=value)
    return transformation, state


def assert_same(found, state):
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_a_rule_pickles(rule):
    transformation, state = rule
    again, same = cloudpickle.loads(cloudpickle.dumps(rule))
    assert_same(same, state)
    one, other = (
        t.update(jnp.ones(3), state, value=0.5) for t in (transformation, again)
    )
    assert_same(one, other)


def test_a_state_survives_orbax(rule, tmp_path):
    _, state = rule
    assert all(leaf.size for leaf in jax.tree.leaves(state))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        assert_same(checkpointer.restore(tmp_path / "state", state), state)


def test_a_state_survives_flax_and_numpy(rule):
    transformation, state = rule
    template = transformation.init(jnp.ones(3))
    as_bytes = flax.serialization.to_bytes(state)
    assert_same(flax.serialization.from_bytes(template, as_bytes), state)
    in_numpy = jax.tree.map(np.asarray, state)
    one, other = (
        transformation.update(jnp.ones(3), s, value=0.5) for s in (state, in_numpy)
    )
    assert_same(one, other)
