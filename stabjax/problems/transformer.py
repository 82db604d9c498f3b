"""A character-level transformer language model."""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from stabjax._arguments import as_integer, as_scalar
from stabjax._train.problem import Problem
from stabjax._types import Number
from stabjax.problems.flax_modules import from_nnx
from stabjax.problems.networks import (
    Pair,
    correct,
    network_problem,
    scaled_normal,
)
from stabjax.problems.text import entropy, markov_text

_HEAD = 16  # width of an attention head
_EXAMPLES = 64  # maximum number of held-out windows in `evaluate`


def char_transformer(
    init_scale: Number = 1.0,
    *,
    text: str | os.PathLike[str] | None = None,
    layers: int = 1,
    width: int = 32,
    context: int = 32,
    batch_size: int = 16,
) -> Problem:
    """Character-level transformer language model.

        h <- h + W_o attention(norm(h))
        h <- h + W_2 gelu(W_1 norm(h))
        L = -1/n sum_t log P(x_(t+1) | x_(t-k) ... x_t)

    Each layer applies causal attention with heads of width 16 and a hidden layer.
    `norm` is a layer norm without learned parameters. The input `h` of the bottom layer
    is the sum of a learned token embedding and a learned position embedding. Initial
    biases are zero, matrices with `n` inputs are drawn from `s N(0, 1 / n)`, and
    embeddings are drawn from `s N(0, 1)`. Each step uses windows at random positions in
    the first 90% of the text.

    Two reference losses in the metadata are computed from the text. `"baseline"` is the
    loss of the best constant prediction, and `"target_loss"` is the loss of the best
    prediction from the previous character. Only a network that uses a longer context
    can achieve a lower loss.

    Args:
      init_scale: scale `s` of the initial weights, > 0. **Traceable.**
      text: the text, or a `pathlib.Path` to a UTF-8 file. Defaults to `markov_text`.
        **Static.**
      layers: number of layers, >= 1. **Static.**
      width: width of the hidden state, a multiple of 16. **Static.**
      context: number of characters in a window, >= 1. **Static.**
      batch_size: number of windows per step, >= 1. **Static.**

    Returns:
      A `Problem` whose `evaluate` returns `test_loss` and `test_accuracy`, computed on
      up to 64 windows from the last 10% of the text.

    Raises:
      TypeError: If an argument is not a scalar, a size is not an integer, or `text` is
        neither a string nor a path.
      ValueError: If an argument is out of range, the last 10% of the text is shorter
        than a window, or the file is not valid UTF-8. Traced values out of range
        yield NaN instead.

    Example:
      >>> import stabjax
      >>> problem = stabjax.problems.char_transformer()
      >>> metadata = problem.metadata
      >>> [round(metadata[name], 2) for name in ("baseline", "target_loss")]
      [1.97, 1.58]

    References:
      Vaswani et al., *Attention is all you need*, 2017,
      https://arxiv.org/abs/1706.03762

      Xiong et al., *On layer normalization in the transformer architecture*, 2020,
      https://arxiv.org/abs/2002.04745
    """
    init_scale = as_scalar("init_scale", init_scale, "> 0")
    layers, context = as_integer("layers", layers), as_integer("context", context)
    width, batch_size = as_integer("width", width), as_integer("batch_size", batch_size)
    if width % _HEAD:
        raise ValueError(f"width must be a multiple of {_HEAD}, got {width}.")
    content = _read(text, context)
    characters, codes = np.unique(list(content), return_inverse=True)
    train, test = _split(codes.astype(np.int32), context)

    module = functools.partial(_Transformer, len(characters), context, width, layers)
    init, apply = from_nnx(module)

    def draw(key: jax.Array) -> Pair:
        bits = jax.random.bits(key, (batch_size,), jnp.uint32)
        place = (bits % np.uint32(len(train) - context)).astype(jnp.int32)
        windows = jnp.asarray(train)[place[:, None] + jnp.arange(context + 1)[None]]
        return windows[:, :-1], windows[:, 1:]

    metadata = {
        "name": "char_transformer",
        "baseline": entropy(content, given=0),
        "target_loss": entropy(content, given=1),
        "steps": 500,
        "optimizer": optax.adam,
        "peak_value": (1e-4, 1.0),
        "max_norm": (0.01, 10.0),
    }
    return network_problem(
        scaled_normal(init, lambda path: init_scale),
        apply,
        {
            "loss": optax.softmax_cross_entropy_with_integer_labels,
            "accuracy": correct,
        },
        draw,
        lambda key: {"test": (test[:, :-1], test[:, 1:])},
        metadata,
    )


def _read(text: str | os.PathLike[str] | None, context: int) -> str:
    if text is None:
        return _default_text()
    if not isinstance(text, (str, os.PathLike)):
        raise TypeError(
            f"text must be a string, the path of a text file such as"
            f" pathlib.Path('book.txt'), or None, got {type(text).__name__}."
        )
    if isinstance(text, str):
        if len(text) <= 10 * context + 9 and os.path.isfile(text):
            raise ValueError(
                "text must be the text itself or a path object such as"
                f" pathlib.Path({text!r}), got a file name as a string."
            )
        return text
    try:
        return pathlib.Path(text).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text must be a valid UTF-8 file, got {text}: {error}."
        ) from None


_default_text = functools.cache(markov_text)


def _split(codes: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the codes into a training sequence and held-out windows."""
    border = len(codes) - len(codes) // 10
    if len(codes) - border <= context:
        raise ValueError(
            f"text must have more than {10 * context + 9} characters for windows of"
            f" context={context}, got {len(codes)}."
        )
    starts = np.arange(border, len(codes) - context, context)
    starts = starts[:: -(-len(starts) // _EXAMPLES)]
    return codes[:border], codes[starts[:, None] + np.arange(context + 1)]


class _Block(nnx.Module):
    """Transformer block with attention, a hidden layer and residual connections."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        """Initializes the four linear layers."""
        self.heads = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.mixed = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.hidden = nnx.Linear(width, 4 * width, rngs=rngs)
        self.output = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        """Maps (batch, time, width) to the same shape."""
        batch, time, width = h.shape
        heads = self.heads(_normed(h)).reshape(batch, time, 3, -1, _HEAD)
        query, key, value = jnp.moveaxis(heads, 2, 0)
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        h = h + self.mixed(attended.reshape(batch, time, width))
        return h + self.output(nnx.gelu(self.hidden(_normed(h))))


class _Transformer(nnx.Module):
    """Transformer that maps characters to logits of the next character."""

    def __init__(
        self, characters: int, context: int, width: int, layers: int, rngs: nnx.Rngs
    ) -> None:
        """Initializes the embeddings, the blocks and the output layer."""
        self.character = nnx.Linear(characters, width, use_bias=False, rngs=rngs)
        self.place = nnx.Linear(context, width, use_bias=False, rngs=rngs)
        self.layers = nnx.List([_Block(width, rngs) for _ in range(layers)])
        self.output = nnx.Linear(width, characters, rngs=rngs)

    def __call__(self, codes: jax.Array) -> jax.Array:
        """Maps (batch, time) to (batch, time, characters)."""
        # Uses a product with one-hot vectors because the gradient of indexing is a
        # slow scatter. The square roots cancel the 1 / sqrt(n) in the initial scale of
        # matrices with n inputs.
        character, place = self.character.kernel[...], self.place.kernel[...]
        chosen = jax.nn.one_hot(codes, len(character)) @ character
        h = chosen * len(character) ** 0.5 + (place * len(place) ** 0.5)[None]
        for layer in self.layers:
            h = layer(h)
        return self.output(_normed(h))


def _normed(h: jax.Array) -> jax.Array:
    """Applies layer norm over the last axis without learned parameters."""
    return jax.nn.standardize(h, axis=-1)
