"""Wrong calls around problems of one's own: one clear sentence each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import stabjax
from stabjax.problems import Problem, supervised

KEY = jax.random.key(0)
X, Y = np.ones((6, 3), np.float32), np.zeros(6, np.int32)
XENT = optax.softmax_cross_entropy_with_integer_labels


def params(key):
    return {"layer": {"w": jnp.ones(3)}}


def with_count(key):
    return params(key), {"norm": {"mean": jnp.zeros(3)}}


def square(p):
    return jnp.sum(p["layer"]["w"] ** 2)


def same(p, state):
    return square(p), state


def train(problem, **kwargs):
    return stabjax.train(problem, optax.sgd(0.1), KEY, **{"steps": 2, **kwargs})


def fit(module=None, x=X, y=Y, loss=XENT, **kwargs):
    problem = supervised(
        module or (lambda rngs: nnx.Linear(3, 3, rngs=rngs)), x, y, loss, **kwargs
    )
    return train(problem)


class Drop(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dropout(0.5, deterministic=False)(linen.Dense(3)(x))


# A call, and the sentence that it raises.
CALLS = {
    "loss with aux": (
        lambda: train(Problem(params, lambda p: (square(p), p))),
        "as metrics, got {'layer': {'w': (3,)}}.",
    ),
    "loss of a vector": (
        lambda: train(Problem(params, lambda p: p["layer"]["w"])),
        "problem.loss must return a floating-point scalar, got an array of shape (3,)",
    ),
    "integer loss": (
        lambda: train(Problem(params, lambda p: jnp.int32(1))),
        "problem.loss must return a floating-point scalar, got an array of shape ()",
    ),
    "no loss": (
        lambda: train(Problem(params, lambda p: None)),
        "problem.loss must return a scalar, got a NoneType.",
    ),
    "integer parameters": (
        lambda: train(Problem(lambda key: {"layer": {"w": 1}}, lambda p: 0.0)),
        "must return floating-point arrays, got int32 at params['layer']['w'].",
    ),
    "an activation among the parameters": (
        lambda: train(Problem(lambda key: {"act": jax.nn.relu}, lambda p: 0.0)),
        "must return floating-point arrays, got relu at params['act'].",
    ),
    "state that the loss does not take": (
        lambda: train(Problem(lambda key: (params(key), {"n": 0}), square)),
        "got int32 at params[1]['n']. If it returns (params, state), problem.loss must "
        "have a parameter 'state'.",
    ),
    "no initial state": (
        lambda: train(Problem(params, same)),
        "problem.init must return (params, state) because problem.loss has a "
        "parameter 'state', got a dict.",
    ),
    "state that is not returned": (
        lambda: train(Problem(with_count, lambda p, state: square(p))),
        "because it has a parameter 'state', got an array.",
    ),
    "state of another shape": (
        lambda: train(
            Problem(
                with_count,
                lambda p, state: (square(p), {"norm": {"mean": jnp.ones(2)}}),
            )
        ),
        "got float32[2] at state['norm']['mean'], which is initially float32[3].",
    ),
    "state of another type": (
        lambda: train(
            Problem(
                with_count,
                lambda p, state: (
                    square(p),
                    {"norm": {"mean": jnp.ones(3, jnp.int32)}},
                ),
            )
        ),
        "got int32[3] at state['norm']['mean'], which is initially float32[3].",
    ),
    "state of another structure": (
        lambda: train(
            Problem(with_count, lambda p, state: (square(p), {**state, "n": 1}))
        ),
        "by problem.init, got a difference at state['n'].",
    ),
    "a function in the state": (
        lambda: train(Problem(lambda key: (params(key), {"act": jax.nn.relu}), same)),
        "must return a state of arrays, got relu at state['act'].",
    ),
    "metrics that are arrays": (
        lambda: train(Problem(params, lambda p: (square(p), {"w": p["layer"]["w"]}))),
        "problem.loss must return a dict of scalars as metrics, got {'w': (3,)}.",
    ),
    "metrics that are no dict": (
        lambda: train(Problem(with_count, lambda p, state: (square(p), state, 1.0))),
        "problem.loss must return a dict of scalars as metrics",
    ),
    "a metric of the optimizer's name": (
        lambda: stabjax.train(
            Problem(params, lambda p: (square(p), {"clip/grad_norm": square(p)})),
            stabjax.with_metrics(stabjax.clip(1.0), name="clip"),
            KEY,
            steps=2,
            record_every=1,
        ),
        "two metrics are called 'clip/grad_norm'",
    ),
    "a branch on a traced value": (
        lambda: train(
            Problem(params, lambda p: square(p) if p["layer"]["w"][0] > 0 else 0.0)
        ),
        "Use jnp.where, jax.lax.cond or jax.lax.fori_loop.",
    ),
    "a Python number of a traced value": (
        lambda: train(Problem(params, lambda p: square(p) * float(square(p)))),
        "problem.loss must not use a traced array in a Python branch",
    ),
    "NumPy on a traced value": (
        lambda: train(Problem(params, lambda p: np.sum(np.asarray(p["layer"]["w"])))),
        "problem.loss must not convert a traced array to a NumPy array. Use jax.numpy, "
        "and jax.debug.print to print a value.",
    ),
    "a final loss without an evaluation": (
        lambda: train(Problem(params, square, metadata={"final_loss": "test_loss"})),
        'metadata["final_loss"] must name an entry of problem.evaluate, which is not '
        "given, got 'test_loss'.",
    ),
    "a formatted traced value": (
        lambda: train(Problem(params, lambda p: float(f"{square(p):.3f}"))),
        "problem.loss must not format a traced array as text. Use jax.debug.print",
    ),
    "a branch in the evaluation": (
        lambda: train(
            Problem(params, square, lambda p: {"a": 1.0 if square(p) > 0 else 0.0})
        ),
        "problem.evaluate must not use a traced array in a Python branch",
    ),
    "a branch on the step": (
        lambda: train(Problem(params, lambda p, step: square(p) if step < 1 else 0.0)),
        "problem.loss must not use a traced array in a Python branch",
    ),
    "inputs and targets as parameters": (
        lambda: train(Problem(params, lambda p, inputs, targets: square(p))),
        "problem.loss must name its parameters after the first from key, state, step, "
        "batch, got 'inputs', 'targets'.",
    ),
    "a batch without data": (
        lambda: train(Problem(params, lambda p, batch: square(p))),
        "got 'batch'. Pass Problem(..., batch=...): a function of a step and a key.",
    ),
    "data without a batch": (
        lambda: train(Problem(params, square, batch=lambda step, key: X)),
        "problem.loss must have a parameter 'batch' because problem.batch is given.",
    ),
    "parameters that come second": (
        lambda: train(Problem(params, lambda key, p: square(p))),
        "must take the model parameters as its first argument, got key.",
    ),
    "state in the evaluation alone": (
        lambda: train(Problem(params, square, lambda p, state: {"a": 0.0})),
        "problem.loss must have a parameter 'state' because problem.evaluate has one.",
    ),
    "an evaluation of a scalar": (
        lambda: train(Problem(params, square, square)),
        "problem.evaluate must return a dict of scalars, got ().",
    ),
    "an unknown final loss": (
        lambda: train(
            Problem(params, square, lambda p: {"a": 0.0}, {"final_loss": "test_loss"})
        ),
        "metadata[\"final_loss\"] must be 'a', got 'test_loss'.",
    ),
    "a batch that is not a function": (
        lambda: Problem(params, square, batch=X),
        "batch must be a function, got array",
    ),
    "epochs of a problem without data": (
        lambda: train(Problem(params, square), steps=None, epochs=2),
        "problem must have metadata['steps_per_epoch'] to be trained or evaluated by",
    ),
    "a batch size beyond the data": (
        lambda: fit(batch_size=7),
        "batch_size must be an integer in [1, 6], got 7.",
    ),
    "a generator of inputs": (
        lambda: fit(x=(row for row in X)),
        "inputs must be an array of numbers or a dict or tuple of arrays. Convert "
        "generators and data loaders to arrays",
    ),
    "a generator in a dict": (
        lambda: fit(x={"image": iter(X)}),
        "inputs['image'] must be an array of numbers",
    ),
    "rows of different lengths": (
        lambda: fit(x=[[1.0], [1.0, 2.0]]),
        "inputs must be an array of numbers",
    ),
    "targets of the wrong length": (
        lambda: fit(y=Y[:5]),
        "along their first axis, got shapes (6, 3) and (5,)",
    ),
    "words as targets": (
        lambda: fit(y=np.array(["a"] * 6)),
        "targets must be an array of numbers",
    ),
    "a test set that is not a pair": (
        lambda: fit(test=X),
        "test must be a pair (inputs, targets)",
    ),
    "an instance instead of a function": (
        lambda: fit(nnx.Linear(3, 3, rngs=nnx.Rngs(0))),
        "got an instance of Linear, which fixes the initial values.",
    ),
    "a Linen class": (
        lambda: fit(linen.Dense),
        "module must be an instance of a Linen module, such as Dense(...)",
    ),
    "dropout that cannot be switched off": (
        lambda: fit(Drop()),
        "module must have a parameter such as train or deterministic in its __call__",
    ),
    "a pair of which one is missing": (
        lambda: fit((lambda key: {}, None)),
        "or a pair of functions (init, apply), got (",
    ),
    "a pair without the state": (
        lambda: fit((params, lambda p, x, state: x)),
        "the init function of module must return (params, state) because its apply "
        "function has a parameter 'state'",
    ),
    "a preprocessing that loses the targets": (
        lambda: fit(preprocess=lambda batch: batch[0]),
        "preprocess must return a pair (inputs, targets), got a ",
    ),
    "augmentation that is not a function": (
        lambda: fit(augment=0.1),
        "augment must be a function of a batch, got 0.1.",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_raises_one_clear_sentence(name):
    call, sentence = CALLS[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    assert sentence in message
    assert message.endswith(".") and "\n" not in message and len(message) < 400
