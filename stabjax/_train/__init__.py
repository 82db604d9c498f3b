"""One training run as a pure function of a problem, an optimizer and a key."""

from stabjax._train.problem import Problem
from stabjax._train.rates import RangeTest, range_test, suggest_rate
from stabjax._train.state import BestEvaluation, TrainResult
from stabjax._train.stopping import EarlyStopping
from stabjax._train.trial import train

__all__ = [
    "BestEvaluation",
    "EarlyStopping",
    "Problem",
    "RangeTest",
    "TrainResult",
    "range_test",
    "suggest_rate",
    "train",
]
