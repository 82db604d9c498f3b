"""Recurrent networks, text and transformer, the CNN, the network of the boundary."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stabjax import problems
from stabjax.problems.text import entropy

KEY = jax.random.key(0)


def values_of(params):
    """Returns NumPy arrays by layer and name."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), nnx.to_pure_dict(params)
    )


def softmax_cross_entropy(logits, labels):
    logits = logits - logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - chosen


# Recurrent networks


def test_single_unit_is_the_recursion_and_has_a_wall():
    problem = problems.single_unit_rnn()
    x, w, b = 0.5, 5.2, -2.1
    for _ in range(50):
        x = w / (1 + math.exp(-x)) + b
    expected = (1 / (1 + math.exp(-x)) - 0.7) ** 2
    np.testing.assert_allclose(
        problem.loss(jnp.array([w, b]), KEY), expected, rtol=1e-5
    )

    for length in (1, 2, 7):
        short = problems.single_unit_rnn(length=length)
        assert short.loss(short.metadata["minimizer"], KEY) < 1e-12

    grid = jnp.stack(
        jnp.meshgrid(jnp.linspace(0, 10, 401), jnp.linspace(-6, 2, 401)), -1
    )
    slopes = jax.jit(jax.vmap(jax.grad(problem.loss), (0, None)))(
        grid.reshape(-1, 2), KEY
    )
    norms = np.linalg.norm(slopes, axis=1)
    assert np.median(norms) < 0.02
    assert norms.max() == pytest.approx(229, rel=0.01)
    assert grid.reshape(-1, 2)[norms.argmax()] == pytest.approx([4.625, -2.38])


def test_recurrent_scale_is_that_of_the_recurrent_matrix_alone():
    def spreads(scale):
        params = problems.adding(scale, hidden=64, length=4).init(KEY)
        w = nnx.to_pure_dict(params)
        return {name: jnp.std(layer["kernel"]) for name, layer in w.items()}

    found = jax.jit(jax.vmap(spreads))(jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(found["recurrent"], np.array([0.5, 2.0]) / 8, rtol=0.05)
    assert found["input"][0] == found["input"][1]
    assert found["output"][0] == found["output"][1]


def with_values(params, **layers):
    """Returns the params with all matrices zero but those given."""
    params = jax.tree.map(jnp.zeros_like, params)
    for name, value in layers.items():
        layer, part = name.split("_")
        params[layer][part][...] = jnp.asarray(value, jnp.float32)
    return params


def test_adding_asks_for_the_sum_of_the_two_marked_numbers():
    problem = problems.adding(length=7, hidden=3, batch_size=64)
    start = problem.init(KEY)
    keys = jax.random.split(KEY, 64)
    loss = jax.jit(
        lambda params: jax.vmap(problem.loss, (None, 0))(params, keys).mean()
    )

    always_one = with_values(start, output_bias=[1.0])
    np.testing.assert_allclose(
        loss(always_one), problem.metadata["baseline"], rtol=0.05
    )

    # A network that adds: the first unit minus the second is the number if it is
    # marked, because without a mark both are -1. The third accumulates their difference
    # one step later. All values are so small that tanh is the identity.
    small, gate = 1e-2, 16.0
    adding = with_values(
        start,
        input_kernel=[[small, 0, 0], [gate, gate, 0]],
        input_bias=[-gate, -gate, 0],
        recurrent_kernel=[[0, 0, 1], [0, 0, -1], [0, 0, 1]],
        output_kernel=np.array([[1], [-1], [1]]) / small,
    )
    assert loss(adding) < 1e-5
    assert jax.jit(problem.evaluate)(adding, KEY)["test_loss"] < 1e-5


def test_temporal_order_has_the_loss_of_a_guess_and_checks_its_length():
    problem = problems.temporal_order(length=10, hidden=20, batch_size=32)
    params = jax.tree.map(jnp.zeros_like, problem.init(KEY))
    results = jax.jit(problem.evaluate)(params, KEY)
    np.testing.assert_allclose(results["test_loss"], math.log(4), rtol=1e-6)
    assert results["test_accuracy"] == pytest.approx(0.25, abs=0.06)
    with pytest.raises(ValueError, match="length must be an integer >= 10, got 9"):
        problems.temporal_order(length=9)


# Text


def test_markov_text_depends_on_two_letters_and_not_on_more():
    text = problems.markov_text(100_000)
    assert set(text) == set("abcdefgh")
    alone, last, two, three = (entropy(text, given=k) for k in range(4))
    assert alone > last + 0.3
    assert last > two + 0.5
    assert two - three < 0.01
    assert text[:1000] == problems.markov_text(1000)
    assert text[:1000] != problems.markov_text(1000, seed=1)


def test_brackets_are_closed_in_order_and_no_deeper_than_told():
    text = problems.bracket_text(5000, depth=3)
    still_open, deepest = [], 0
    for bracket in text:
        if bracket in "([":
            still_open.append(bracket)
        else:
            assert still_open.pop() + bracket in ("()", "[]")
        deepest = max(deepest, len(still_open))
    assert deepest == 3


def test_words_are_written_twice():
    text = problems.copy_text(8 * 10, word=3, letters=26)
    assert len(text) == 80
    for pair in text.split(";")[:-1]:
        first, again = pair.split(":")
        assert first == again
        assert len(first) == 3


def test_entropy_counts():
    assert entropy("abababab", given=0) == pytest.approx(math.log(2))
    assert entropy("abababab", given=1) == pytest.approx(0, abs=1e-12)
    assert entropy("aabb" * 1000, given=1) == pytest.approx(math.log(2), rel=1e-3)


# Transformer


def test_transformer_equals_its_formula():
    problem = problems.char_transformer(
        text="abcdefgh" * 40, context=4, width=16, batch_size=2
    )

    def all_of_it():
        params = problem.init(KEY)
        return params, problem.loss(params, KEY), problem.evaluate(params, KEY)

    params, loss, results = jax.jit(all_of_it)()
    w = values_of(params)
    codes = np.arange(8)
    windows = np.stack([codes[(start + np.arange(5)) % 8] for start in range(8)])

    def normed(h):
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(
            h.var(-1, keepdims=True) + 1e-5
        )

    h = w["character"]["kernel"][windows[:, :-1]] * 8**0.5
    h = h + w["place"]["kernel"] * 4**0.5
    block = w["layers"][0]
    query, key, value = np.split(normed(h) @ block["heads"]["kernel"], 3, axis=-1)
    scores = query @ key.swapaxes(1, 2) / 4
    scores = np.where(np.tril(np.ones((4, 4))), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    h = h + weights @ value @ block["mixed"]["kernel"]
    z = normed(h) @ block["hidden"]["kernel"]
    gelu = z * (1 + np.tanh((2 / np.pi) ** 0.5 * (z + 0.044715 * z**3))) / 2
    h = h + gelu @ block["output"]["kernel"]
    logits = normed(h) @ w["output"]["kernel"]
    # Every window of this text is one of eight, so a batch's mean is of eight values.
    expected = softmax_cross_entropy(logits, windows[:, 1:]).mean(1)
    pairs = (expected[:, None] + expected[None]) / 2
    assert np.abs(pairs - np.float64(loss)).min() < 1e-4 * loss
    # The last tenth, 32 characters, has room for seven windows, at every fourth place.
    answers = logits.argmax(-1) == windows[:, 1:]
    places = np.arange(7) * 4 % 8
    assert results["test_loss"] == pytest.approx(expected[places].mean(), rel=1e-4)
    assert results["test_accuracy"] == pytest.approx(answers[places].mean())


def test_transformer_reads_a_file_and_knows_its_baselines(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("hällo wörld " * 50, encoding="utf-8")
    problem = problems.char_transformer(text=path, context=8)
    assert problem.metadata["baseline"] == entropy("hällo wörld " * 50, given=0)
    assert problem.metadata["target_loss"] < problem.metadata["baseline"]
    shapes = jax.eval_shape(problem.init, KEY)
    assert shapes["character"]["kernel"].shape == (len(set("hällo wörld ")), 32)
    path.write_text("hällo wörld " * 50, encoding="utf-8-sig")  # with a mark in front
    marked = problems.char_transformer(text=path, context=8)
    assert marked.metadata["baseline"] == problem.metadata["baseline"]

    with pytest.raises(ValueError, match=r"pathlib.Path\('.*book.txt'\), got a file"):
        problems.char_transformer(text=str(path))
    path.write_text("hällo wörld " * 50, encoding="latin-1")
    with pytest.raises(ValueError, match=r"a valid UTF-8 file, got .*book.txt: "):
        problems.char_transformer(text=path)
    path.write_text("")
    with pytest.raises(ValueError, match="more than 89 characters .* got 0"):
        problems.char_transformer(text=path, context=8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"width": 24}, ValueError, "width must be a multiple of 16, got 24"),
        ({"text": "abc"}, ValueError, "more than 329 characters .* context=32, got 3"),
        ({"text": 3}, TypeError, "text must be a string, the path .* got int"),
        ({"layers": 0}, ValueError, "layers must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_of_the_transformer_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        problems.char_transformer(**arguments)


# Digits and the boundary


def test_cnn_is_a_convolution_of_three_by_three():
    from stabjax.problems.digits import _digits

    problem = problems.digits_cnn(channels=2, batch_size=None)
    params, loss = jax.jit(
        lambda: (params := problem.init(KEY), problem.loss(params, KEY))
    )()
    w = values_of(params)
    images, labels = _digits()
    train = np.arange(len(images)) % 4 != 3
    x, labels = images[train][:, :, None].reshape(-1, 8, 8, 1), labels[train]
    for name in ("first", "second"):
        kernel = jnp.asarray(w[name]["kernel"], jnp.float32)
        kernel = kernel.reshape(3, 3, x.shape[-1], -1)
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            jnp.asarray(x), kernel, (1, 1), "SAME", dimension_numbers=dimensions
        )
        pairs = np.maximum(x, 0).reshape(
            len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1
        )
        x = pairs.mean((2, 4))
    logits = np.asarray(x).reshape(len(x), -1) @ w["output"]["kernel"]
    expected = softmax_cross_entropy(logits, labels).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_network_of_the_boundary_equals_its_formula(activation):
    problem = problems.boundary_mlp(0.5, width=4, activation=activation)
    plain = problems.boundary_mlp(width=4, activation=activation)
    w, before = values_of(problem.init(KEY)), values_of(plain.init(KEY))
    first, second = w["input"]["kernel"], w["output"]["kernel"]
    np.testing.assert_allclose(first, before["input"]["kernel"] + 0.5, rtol=1e-6)
    np.testing.assert_array_equal(second, before["output"]["kernel"])

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 1))
    z = x @ first / 2
    h = {
        "tanh": np.tanh(2**0.5 * z),
        "relu": 2**0.5 * np.maximum(z, 0),
        "identity": z,
    }[activation]
    expected = np.mean((h @ second / 4 - y) ** 2)
    np.testing.assert_allclose(
        problem.loss(problem.init(KEY), KEY), expected, rtol=1e-5
    )


def test_unknown_activations_are_named():
    with pytest.raises(ValueError, match="'tanh', 'relu' or 'identity', got 'gelu'"):
        problems.boundary_mlp(activation="gelu")
    with pytest.raises(ValueError, match="'tanh', 'relu' or 'identity', got None"):
        problems.boundary_mlp(activation=None)


def test_network_of_the_boundary_follows_x64():
    with jax.enable_x64(True):
        problem = problems.boundary_mlp(0.5, width=2)
        shapes = jax.eval_shape(problem.init, KEY)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {
            jnp.dtype(jnp.float64)
        }
        assert jax.eval_shape(problem.loss, shapes, KEY).dtype == jnp.float64
