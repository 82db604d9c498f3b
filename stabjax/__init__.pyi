"""The public names for type checkers; `__init__.py` loads each when first used."""

from stabjax import compat as compat
from stabjax import plot as plot
from stabjax import problems as problems
from stabjax import runs as runs
from stabjax import search as search
from stabjax import study as study
from stabjax._clipping import *
from stabjax._groups import by_group as by_group
from stabjax._guards import *
from stabjax._metrics import LearningRateState as LearningRateState
from stabjax._metrics import MetricsState as MetricsState
from stabjax._metrics import metrics as metrics
from stabjax._metrics import with_learning_rate as with_learning_rate
from stabjax._metrics import with_metrics as with_metrics
from stabjax._norms import global_norm as global_norm
from stabjax._norms import leaf_norms as leaf_norms
from stabjax._schedules import *
from stabjax._sweep import *
from stabjax._train import BestEvaluation as BestEvaluation
from stabjax._train import EarlyStopping as EarlyStopping
from stabjax._train import RangeTest as RangeTest
from stabjax._train import TrainResult as TrainResult
from stabjax._train import range_test as range_test
from stabjax._train import suggest_rate as suggest_rate
from stabjax._train import train as train

__version__: str
