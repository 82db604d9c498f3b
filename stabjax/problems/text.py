"""Text that is generated, so that no corpus has to be shipped or downloaded."""

import numpy as np

from stabjax.problems.arguments import number, size

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def markov_text(
    length: int = 20_000,
    *,
    letters: int = 8,
    concentration: float = 0.2,
    seed: int = 0,
) -> str:
    r"""Letters each of which depends on the two before it.

    .. math:: P(x_t \mid x_{t-1}, x_{t-2}) = p_{x_{t-2} x_{t-1}}(x_t), \qquad
        p_{ij} \sim \mathrm{Dirichlet}(\alpha, \dots, \alpha)

    with another distribution for each pair of letters, drawn once. What can be
    predicted is all in the last two letters, and a model that looks at the last one
    alone does worse.

    Args:
      length: number of characters.
      letters: size of the alphabet, at most 26.
      concentration: :math:`\alpha > 0`: small for letters that are nearly certain.
      seed: of the distributions and of the text.

    Returns:
      The text.

    Raises:
      TypeError: if a size is not an int, or ``concentration`` no number.
      ValueError: if an argument is outside its range.

    Example:
      >>> import stabjax
      >>> text = stabjax.problems.markov_text(100)
      >>> len(text), set(text) <= set("abcdefgh")
      (100, True)

    Source: the second-order approximation of Shannon, A mathematical theory of
    communication, 1948, with letters and chances of our own.
    """
    length = size("length", length)
    letters = size("letters", letters, largest=len(_LETTERS))
    concentration = float(number("concentration", concentration, above=0))
    rng = np.random.default_rng(seed)
    alpha = np.full(letters, concentration)
    chances = rng.dirichlet(alpha, size=(letters, letters)).cumsum(axis=-1)
    drawn = rng.uniform(size=length)
    text = [0, 0]
    for uniform in drawn:
        position = np.searchsorted(chances[text[-2], text[-1]], uniform)
        text.append(min(int(position), letters - 1))  # a sum may round to below 1
    return "".join(_LETTERS[letter] for letter in text[2:])


def bracket_text(length: int = 20_000, *, depth: int = 6, seed: int = 0) -> str:
    r"""Two kinds of brackets, nested and balanced, one such word after the other.

    Where one is open, and fewer than the greatest depth, another is opened with
    probability 1/2, and each kind is as likely; a closing bracket is of the kind that
    was opened last. So which bracket closes is certain, and knowing it takes a stack:
    the pair may have been opened far back.

    Args:
      length: number of characters.
      depth: how many brackets may be open at once.
      seed: of the text.

    Returns:
      The text; its last brackets may be left open.

    Raises:
      TypeError: if a size is not an int.
      ValueError: if a size is below 1.

    Example:
      >>> import stabjax
      >>> stabjax.problems.bracket_text(24)
      '([[()]])()[[][]()][[[[]]'

    Source: the Dyck language of two kinds, of bounded depth, as in Hewitt et al., RNNs
    can generate bounded hierarchical languages with optimal memory, 2020.
    """
    length, depth = size("length", length), size("depth", depth)
    rng = np.random.default_rng(seed)
    text: list[str] = []
    still_open: list[str] = []
    for opens, kind in zip(
        rng.uniform(size=length) < 0.5, rng.integers(2, size=length), strict=True
    ):
        if not still_open or (opens and len(still_open) < depth):
            still_open.append(")]"[kind])
            text.append("(["[kind])
        else:
            text.append(still_open.pop())
    return "".join(text)


def copy_text(
    length: int = 20_000, *, word: int = 8, letters: int = 8, seed: int = 0
) -> str:
    r"""Random words, each written twice: ``abcd:abcd;``.

    The first time every letter is a guess, of :math:`\log` of the number of letters;
    the second time it stands where it stood, ``word + 1`` characters back. A model that
    copies has about half the loss of one that does not.

    Args:
      length: number of characters.
      word: number of letters of each word.
      letters: size of the alphabet, at most 26.
      seed: of the text.

    Returns:
      The text; its last word may be cut.

    Raises:
      TypeError: if a size is not an int.
      ValueError: if a size is outside its range.

    Example:
      >>> import stabjax
      >>> first, again = stabjax.problems.copy_text(17).split(":")
      >>> first == again, len(first)
      (True, 8)

    Source: the copying task of Graves, Wayne and Danihelka, Neural Turing machines,
    2014, as running text.
    """
    length, word = size("length", length), size("word", word)
    letters = size("letters", letters, largest=len(_LETTERS))
    words = np.random.default_rng(seed).integers(
        letters, size=(-(-length // (2 * word + 2)), word)
    )
    written = ("".join(_LETTERS[letter] for letter in row) for row in words)
    return "".join(f"{one}:{one};" for one in written)[:length]


def entropy(text: str, *, given: int) -> float:
    r"""Mean surprise of a character given those before it, as the text itself has it.

    .. math:: -\frac1n \sum_t \log \frac{n(x_{t-k} \dots x_t)}{n(x_{t-k} \dots x_{t-1})}

    in nats, where :math:`n(\cdot)` counts how often the characters occur. No predictor
    from ``given`` characters has a lower loss on this text.
    """
    codes = np.unique(list(text), return_inverse=True)[1]
    kinds = int(codes.max()) + 1
    count = len(codes) - given
    context = np.zeros(count, np.int64)
    for offset in range(given):
        context = context * kinds + codes[offset : offset + count]
    whole = np.unique(context * kinds + codes[given:], return_counts=True)[1] / count
    before = np.unique(context, return_counts=True)[1] / count
    return float(np.sum(before * np.log(before)) - np.sum(whole * np.log(whole)))
