"""Settings shared by all runs of a sweep."""

from collections.abc import Callable
from typing import Any, NamedTuple

from stabjax._sweep.factories import name_of
from stabjax._train.divergence import DIVERGENCE_FACTOR
from stabjax._train.stopping import EarlyStopping, function_alone


class Settings(NamedTuple):
    """The arguments of `train` and, if used, of successive halving."""

    steps: int
    record_every: int | None = None
    divergence_factor: float = DIVERGENCE_FACTOR
    summaries: tuple[str, ...] = ()
    target_loss: float | None = None
    evaluations: int = 1
    rungs: tuple[int, ...] = ()  # steps at which halving compares points
    eta: float | None = None
    compared_by: str | None = None
    evaluate_every: int | None = None
    stop: tuple[Any, ...] | None = None  # the fields of an `EarlyStopping` but `when`
    # A function, or its name in settings that were loaded from a file.
    when: Callable[..., object] | str | None = None

    def stopping(self, rule: EarlyStopping | None) -> "Settings":
        """Returns the settings with a rule for early stopping."""
        if rule is None:
            return self
        fields = tuple(rule[:-1]) if rule.variable else None
        return self._replace(stop=fields, when=rule.when)

    def rule(self) -> EarlyStopping | None:
        """Returns the rule for early stopping."""
        when: Any = self.when
        if self.stop:
            return EarlyStopping(*self.stop)._replace(when=when)
        return None if when is None else function_alone(when)

    def functions(self) -> list[object]:
        """Returns the functions that are traced to create a program."""
        return [self.when] if callable(self.when) else []

    def as_data(self) -> dict[str, Any]:
        """Returns the settings as plain data, with the name of the function."""
        when: Any = self.when
        name = when if when is None or isinstance(when, str) else name_of(when)
        return {**self._asdict(), "when": name}
