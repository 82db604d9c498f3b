"""Generated text, so that no corpus has to be shipped or downloaded."""

import numpy as np

from stabjax._arguments import as_integer, as_scalar

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def markov_text(
    length: int = 20_000,
    *,
    letters: int = 8,
    concentration: float = 0.2,
    seed: int = 0,
) -> str:
    """Letters, each of which depends on the two before it.

        P(x_t | x_(t-1), x_(t-2)) = p_ij(x_t),  i = x_(t-2),  j = x_(t-1)
        p_ij ~ Dirichlet(alpha, ..., alpha)

    with a distribution for each pair of letters, drawn once. The last two letters carry
    all that can be predicted, and a model that looks at the last one alone does worse.

    Args:
      length: number of characters, >= 1. **Static.**
      letters: size of the alphabet, in [1, 26]. **Static.**
      concentration: `alpha`, > 0; small values make the next letter nearly certain.
        **Static.**
      seed: of the distributions and of the text. **Static.**

    Returns:
      The text.

    Raises:
      TypeError: a size is not an integer, or `concentration` is not a number.
      ValueError: an argument is out of range.

    Example:
      >>> import stabjax
      >>> text = stabjax.problems.markov_text(100)
      >>> len(text), set(text) <= set("abcdefgh")
      (100, True)

    References:
      Shannon, *A mathematical theory of communication*, 1948, section 3,
      https://doi.org/10.1002/j.1538-7305.1948.tb01338.x
    """
    length = as_integer("length", length)
    letters = as_integer("letters", letters, f"in [1, {len(_LETTERS)}]")
    concentration = float(as_scalar("concentration", concentration, "> 0"))
    rng = np.random.default_rng(seed)
    alpha = np.full(letters, concentration)
    chances = rng.dirichlet(alpha, size=(letters, letters)).cumsum(axis=-1)
    drawn = rng.uniform(size=length)
    text = [0, 0]
    for uniform in drawn:
        position = np.searchsorted(chances[text[-2], text[-1]], uniform)
        text.append(min(int(position), letters - 1))  # the last sum may round below 1
    return "".join(_LETTERS[letter] for letter in text[2:])


def bracket_text(length: int = 20_000, *, depth: int = 6, seed: int = 0) -> str:
    """Two kinds of brackets, nested and balanced, in one word after another.

    While a bracket is open and the depth is below its limit, another one opens with
    probability 1/2, and both kinds are equally likely. A closing bracket is of the kind
    that was opened last. So the kind of a closing bracket is certain, but knowing it
    takes a stack: the opening one may be far back.

    Args:
      length: number of characters, >= 1. **Static.**
      depth: largest number of open brackets, >= 1. **Static.**
      seed: of the text. **Static.**

    Returns:
      The text. Its last brackets may stay open.

    Raises:
      TypeError: a size is not an integer.
      ValueError: a size is out of range.

    Example:
      >>> import stabjax
      >>> stabjax.problems.bracket_text(24)
      '([[()]])()[[][]()][[[[]]'

    References:
      Hewitt et al., *RNNs can generate bounded hierarchical languages with optimal
      memory*, 2020, https://arxiv.org/abs/2010.07515
    """
    length, depth = as_integer("length", length), as_integer("depth", depth)
    rng = np.random.default_rng(seed)
    text: list[str] = []
    closing: list[str] = []
    for opens, kind in zip(
        rng.uniform(size=length) < 0.5, rng.integers(2, size=length), strict=True
    ):
        if not closing or (opens and len(closing) < depth):
            closing.append(")]"[kind])
            text.append("(["[kind])
        else:
            text.append(closing.pop())
    return "".join(text)


def copy_text(
    length: int = 20_000, *, word: int = 8, letters: int = 8, seed: int = 0
) -> str:
    """Random words, each written twice: `abcd:abcd;`.

    The first copy of each letter is a guess, with a loss of `log(letters)`; the second
    is the letter `word + 1` characters back. A model that copies has about half the
    loss of one that does not.

    Args:
      length: number of characters, >= 1. **Static.**
      word: number of letters of each word, >= 1. **Static.**
      letters: size of the alphabet, in [1, 26]. **Static.**
      seed: of the text. **Static.**

    Returns:
      The text. Its last word may be cut.

    Raises:
      TypeError: a size is not an integer.
      ValueError: a size is out of range.

    Example:
      >>> import stabjax
      >>> first, again = stabjax.problems.copy_text(17).split(":")
      >>> first == again, len(first)
      (True, 8)

    References:
      Graves, Wayne and Danihelka, *Neural Turing machines*, 2014, section 4.1,
      https://arxiv.org/abs/1410.5401
    """
    length, word = as_integer("length", length), as_integer("word", word)
    letters = as_integer("letters", letters, f"in [1, {len(_LETTERS)}]")
    words = np.random.default_rng(seed).integers(
        letters, size=(-(-length // (2 * word + 2)), word)
    )
    written = ("".join(_LETTERS[letter] for letter in row) for row in words)
    return "".join(f"{one}:{one};" for one in written)[:length]


def entropy(text: str, *, given: int) -> float:
    """Returns the mean surprise of a character given those before it, in nats.

        -1/n sum_t log(n(x_(t-k) ... x_t) / n(x_(t-k) ... x_(t-1)))

    where `n(.)` counts how often the characters occur in the text. No predictor from
    `given` characters has a lower loss on this text.
    """
    codes = np.unique(list(text), return_inverse=True)[1]
    kinds = int(codes.max()) + 1
    count = len(codes) - given
    context = np.zeros(count, np.int64)
    for offset in range(given):
        context = context * kinds + codes[offset : offset + count]
    joint = np.unique(context * kinds + codes[given:], return_counts=True)[1] / count
    before = np.unique(context, return_counts=True)[1] / count
    return float(np.sum(before * np.log(before)) - np.sum(joint * np.log(joint)))
