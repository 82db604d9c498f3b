"""A transformer that predicts the next character of a text."""

import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from stabjax._train.problem import Problem
from stabjax.problems.arguments import number, size
from stabjax.problems.networks import correct, init_and_apply, scaled_normal
from stabjax.problems.text import entropy, markov_text

_HEAD = 16  # width of an attention head
_EXAMPLES = 64  # windows of the test part that `evaluate` looks at, at most


def char_transformer(
    init_scale: ArrayLike = 1.0,
    *,
    text: str | os.PathLike[str] | None = None,
    layers: int = 1,
    width: int = 32,
    context: int = 32,
    batch_size: int = 16,
) -> Problem:
    r"""A transformer of one or two layers that predicts each next character of a text.

    .. math:: h \leftarrow h + W_o\, \mathrm{attention}(\bar h), \qquad
        h \leftarrow h + W_2\, \mathrm{gelu}(W_1 \bar h), \qquad
        L = -\frac1n \sum_t \log P(x_{t+1} \mid x_{t-k} \dots x_t)

    for each layer, with causal attention in heads of 16, :math:`\bar h` the layer norm
    of :math:`h` without parameters, and :math:`h` the sum of learnt vectors for the
    character and for its place at the start. Biases start at 0, matrices at
    :math:`s\, N(0, 1/n)` with :math:`n` inputs, and the vectors at :math:`s\, N(0, 1)`.
    A step sees windows from random places of the first nine tenths of the text.

    The baselines are counted in the text itself: ``"baseline"`` is the loss of the best
    constant prediction, and ``"target_loss"`` that of the best one from the character
    before, which only a network that looks farther back can beat.

    Args:
      init_scale: :math:`s > 0`; may be traced.
      text: the text, or the path of a file of it in UTF-8, as a ``pathlib.Path``, or
        None for :func:`markov_text`; static, and so are all that follow.
      layers: number of layers.
      width: of the hidden state, a multiple of 16.
      context: characters in a window.
      batch_size: windows in each step.

    Returns:
      A :class:`stabjax.problems.Problem` whose ``evaluate`` returns ``test_loss`` and
      ``test_accuracy`` over (at most 64) windows of the last tenth of the text.

    Raises:
      TypeError: if an argument is of another type.
      ValueError: if an argument is outside its range (a traced one becomes NaN), the
        text too short for a window in its last tenth, or its file not in UTF-8.

    Example:
      >>> import stabjax
      >>> problem = stabjax.problems.char_transformer()
      >>> metadata = problem.metadata
      >>> [round(metadata[name], 2) for name in ("baseline", "target_loss")]
      [1.97, 1.58]

    Source: Vaswani et al., Attention is all you need, 2017, with the norm before each
    part as in Xiong et al., On layer normalization in the transformer architecture,
    2020.
    """
    init_scale = number("init_scale", init_scale, above=0)
    layers, context = size("layers", layers), size("context", context)
    width, batch_size = size("width", width), size("batch_size", batch_size)
    if width % _HEAD:
        raise ValueError(f"width must be a multiple of {_HEAD}, got {width}")
    written = _read(text, context)
    characters, codes = np.unique(list(written), return_inverse=True)
    train, test = _parts(codes.astype(np.int32), context)

    module = functools.partial(_Transformer, len(characters), context, width, layers)
    init, apply = init_and_apply(module, None)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        bits = jax.random.bits(key, (batch_size,), jnp.uint32)
        place = (bits % np.uint32(len(train) - context)).astype(jnp.int32)
        windows = jnp.asarray(train)[place[:, None] + jnp.arange(context + 1)[None]]
        return jnp.mean(_cross_entropy(apply(params, windows[:, :-1]), windows[:, 1:]))

    def evaluate(params: Any, key: jax.Array) -> dict[str, jax.Array]:
        del key
        logits = apply(params, jnp.asarray(test[:, :-1]))
        wanted = jnp.asarray(test[:, 1:])
        return {
            "test_loss": jnp.mean(_cross_entropy(logits, wanted)),
            "test_accuracy": jnp.mean(correct(logits, wanted)),
        }

    metadata = {
        "name": "char_transformer",
        "baseline": entropy(written, given=0),
        "target_loss": entropy(written, given=1),
        "steps": 500,
        "optimizer": optax.adam,
        "peak_value": (1e-4, 1.0),
        "max_norm": (0.01, 10.0),
    }
    init = scaled_normal(init, lambda path: init_scale)
    return Problem(init, loss, evaluate, metadata)


_cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def _read(text: str | os.PathLike[str] | None, context: int) -> str:
    if text is None:
        return _default_text()
    if not isinstance(text, (str, os.PathLike)):
        raise TypeError(
            f"text must be a string, the path of a text file such as"
            f" pathlib.Path('book.txt'), or None, got {type(text).__name__}"
        )
    if isinstance(text, str):
        if len(text) <= 10 * context + 9 and os.path.isfile(text):
            raise ValueError(
                "text must be the text itself or a path object such as"
                f" pathlib.Path({text!r}), got the name of a file as a string"
            )
        return text
    try:
        return pathlib.Path(text).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"text must be a file in UTF-8, got {text}: {error}") from None


_default_text = functools.cache(markov_text)


def _parts(codes: Any, context: int) -> tuple[Any, Any]:
    """What is trained on, and windows of what is kept for the test."""
    border = len(codes) - len(codes) // 10
    if len(codes) - border <= context:
        raise ValueError(
            f"text must have more than {10 * context + 9} characters for windows of"
            f" context={context}, got {len(codes)}"
        )
    starts = np.arange(border, len(codes) - context, context)
    kept = starts[:: -(-len(starts) // _EXAMPLES)]
    return codes[:border], codes[kept[:, None] + np.arange(context + 1)]


class _Block(nnx.Module):
    """Attention and a layer of hidden units, each added to what it was given."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        """Makes the four linear maps."""
        self.heads = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.mixed = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.hidden = nnx.Linear(width, 4 * width, rngs=rngs)
        self.output = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        """From (batch, time, width) to the same."""
        batch, time, width = h.shape
        heads = self.heads(_normed(h)).reshape(batch, time, 3, -1, _HEAD)
        query, key, value = jnp.moveaxis(heads, 2, 0)
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        h = h + self.mixed(attended.reshape(batch, time, width))
        return h + self.output(nnx.gelu(self.hidden(_normed(h))))


class _Transformer(nnx.Module):
    """Characters in, logits of the next ones out."""

    def __init__(
        self, characters: int, context: int, width: int, layers: int, rngs: nnx.Rngs
    ) -> None:
        """Makes vectors, layers and the read-out."""
        self.character = nnx.Linear(characters, width, use_bias=False, rngs=rngs)
        self.place = nnx.Linear(context, width, use_bias=False, rngs=rngs)
        self.layers = nnx.List([_Block(width, rngs) for _ in range(layers)])
        self.output = nnx.Linear(width, characters, rngs=rngs)

    def __call__(self, codes: jax.Array) -> jax.Array:
        """From (batch, time) to (batch, time, characters)."""
        # A product with unit vectors: its derivative is one too, and no scatter. The
        # roots undo the division of a matrix's start by its number of inputs.
        character, place = self.character.kernel[...], self.place.kernel[...]
        shown = jax.nn.one_hot(codes, len(character)) @ character
        h = shown * len(character) ** 0.5 + (place * len(place) ** 0.5)[None]
        for layer in self.layers:
            h = layer(h)
        return self.output(_normed(h))


def _normed(h: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 over the last axis."""
    return jax.nn.standardize(h, axis=-1)
