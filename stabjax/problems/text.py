"""Synthetic text for language models."""

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
    """Generates text from a second-order Markov chain over letters.

        P(x_t | x_(t-1), x_(t-2)) = p_ij(x_t),  i = x_(t-2),  j = x_(t-1)
        p_ij ~ Dirichlet(alpha, ..., alpha)

    The next letter depends only on the previous two letters. A model that uses only the
    previous letter has a larger loss.

    Args:
      length: number of characters, >= 1. **Static.**
      letters: size of the alphabet, in [1, 26]. **Static.**
      concentration: parameter `alpha` of the Dirichlet distribution, > 0. For small
        values, the next letter is almost deterministic. **Static.**
      seed: random seed for the transition probabilities and the text. **Static.**

    Returns:
      A string of lowercase letters.

    Raises:
      TypeError: If a size is not an integer or `concentration` is not a number.
      ValueError: If an argument is out of range.

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
        text.append(min(int(position), letters - 1))  # the sum can round below 1
    return "".join(_LETTERS[letter] for letter in text[2:])


def bracket_text(length: int = 20_000, *, depth: int = 6, seed: int = 0) -> str:
    """Generates nested and balanced brackets of two types.

    If a bracket is open and the maximum depth is not reached, another bracket opens
    with probability 1/2. Both types are equally likely. The type of a closing bracket
    is determined by its opening bracket, which can be many characters back, so
    predicting it requires a stack.

    Args:
      length: number of characters, >= 1. **Static.**
      depth: maximum number of open brackets, >= 1. **Static.**
      seed: random seed. **Static.**

    Returns:
      A string of brackets. Brackets can remain open at the end.

    Raises:
      TypeError: If a size is not an integer.
      ValueError: If a size is out of range.

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
    """Generates random words, each written twice as in `abcd:abcd;`.

    The letters of the first copy are unpredictable and have an expected loss of
    `log(letters)`. Each letter of the second copy equals the letter `word + 1`
    characters back. A model that learns to copy has about half the loss of a model that
    does not.

    Args:
      length: number of characters, >= 1. **Static.**
      word: number of letters in each word, >= 1. **Static.**
      letters: size of the alphabet, in [1, 26]. **Static.**
      seed: random seed. **Static.**

    Returns:
      A string of words. The last word can be truncated.

    Raises:
      TypeError: If a size is not an integer.
      ValueError: If a size is out of range.

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
    """Returns the empirical entropy of a character given the previous `k` characters.

        -1/n sum_t log(n(x_(t-k) ... x_t) / n(x_(t-k) ... x_(t-1)))

    where `n(.)` is the number of occurrences in the text and `k` is `given`. The result
    is in nats. It is the smallest loss that a predictor from `k` characters can have on
    the text.
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
