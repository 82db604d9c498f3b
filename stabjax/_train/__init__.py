"""One training run as a pure function of a problem, an optimizer and a key."""

from stabjax._train.problem import Problem
from stabjax._train.trial import TrainResult, train

__all__ = ["Problem", "TrainResult", "train"]
