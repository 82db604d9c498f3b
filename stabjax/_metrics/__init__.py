"""Metrics of the last update, stored in the optimizer state."""

from stabjax._metrics.reading import metric_key, metrics
from stabjax._metrics.with_learning_rate import LearningRateState, with_learning_rate
from stabjax._metrics.with_metrics import (
    MetricsState,
    Report,
    ReportingTransformation,
    check_transformation,
    count_clip,
    with_metrics,
)

__all__ = [
    "LearningRateState",
    "MetricsState",
    "Report",
    "ReportingTransformation",
    "check_transformation",
    "count_clip",
    "metric_key",
    "metrics",
    "with_learning_rate",
    "with_metrics",
]
