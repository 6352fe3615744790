"""Adaptive search with Optuna: each batch of trials is chosen by what the ones before gave.

The study lives in memory and is played again from the start: equal seeds ask for equal trials, and those that are
stored cost nothing. Trials of a batch are asked for together and told in order, so the course of the search does
not depend on the number of workers.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from aquasim.errors import UserError
from aquasim.scenario.changes import as_toml
from aquasim.sweep.base import Point
from aquasim.sweep.check import Assignment
from aquasim.sweep.evaluate import Evaluator
from aquasim.sweep.file import SearchTable
from aquasim.sweep.plan import Sweep
from aquasim.sweep.ranges import ChoiceRange, IntegerRange, LogRange, Range
from aquasim.sweep.results import Results
from aquasim.sweep.terms import Name

Trial = tuple[Assignment, str]
"""What is tried: values, and a system."""


def search(sweep: Sweep, evaluator: Evaluator) -> list[Assignment]:
    """Run a sweep's `[search]`; return the assignments tried, each once, in order.

    Raises:
        UserError: Optuna is not installed.
    """
    table = sweep.file.search
    assert table is not None
    optuna = _optuna()
    study = _study(optuna, sweep, table)
    tried: dict[Trial, tuple[list[float] | None, list[float]]] = {}
    while len(study.trials) < table.trials:
        asked = [study.ask() for _ in range(min(table.batch, table.trials - len(study.trials)))]
        trials = [_suggest(trial, sweep, table) for trial in asked]
        new = [trial for trial in dict.fromkeys(trials) if trial not in tried]
        evaluator.ensure(point for trial in new for point in _points(sweep, trial))
        tried |= _outcomes(sweep, evaluator, new)
        for trial, what in zip(asked, trials, strict=True):
            costs, misses = tried[what]
            trial.set_user_attr("misses", misses)
            if costs is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, costs)
    return list(dict.fromkeys(assignment for assignment, _ in tried))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("[search]: Optuna is not installed; pip install 'aquasim[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(optuna: Any, sweep: Sweep, table: SearchTable) -> Any:
    """Return an empty study; a trial's constraints are what it misses them by."""
    samplers = optuna.samplers
    constraints = (lambda trial: trial.user_attrs.get("misses", [])) if sweep.constraints else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Optuna calls experimental has been there for years
        if table.sampler == "tpe":
            sampler = samplers.TPESampler(seed=table.seed, constant_liar=True, constraints_func=constraints)
        elif table.sampler == "nsgaii":
            sampler = samplers.NSGAIISampler(seed=table.seed, constraints_func=constraints)
        elif table.sampler == "gp":
            sampler = samplers.GPSampler(seed=table.seed, constraints_func=constraints)
        else:
            sampler = samplers.RandomSampler(seed=table.seed)
        directions = ["minimize"] * len(sweep.objectives)
        return optuna.create_study(directions=directions, sampler=sampler)


def _suggest(trial: Any, sweep: Sweep, table: SearchTable) -> Trial:
    """Ask for a value of every key, and for a system where there is a choice."""
    values = tuple((key, _value(trial, key, of)) for key, of in table.ranges.items())
    if table.system is not None or len(sweep.systems) == 1:
        return values, table.system or sweep.systems[0]
    return values, str(trial.suggest_categorical("system", list(sweep.systems)))


def _value(trial: Any, key: str, of: Range) -> Any:
    if isinstance(of, ChoiceRange):
        texts = [as_toml(value) for value in of.values]  # Optuna takes no lists and tables
        return of.values[texts.index(trial.suggest_categorical(key, texts))]
    if isinstance(of, IntegerRange):
        return int(trial.suggest_int(key, of.low, of.high))
    return float(trial.suggest_float(key, of.low, of.high, log=isinstance(of, LogRange)))


def _points(sweep: Sweep, trial: Trial) -> Iterator[Point]:
    """Return a trial's points, and those of the systems that it is compared with."""
    assignment, system = trial
    names = [name for each in sweep.constraints for name in each.names()]
    names += [each.name for each in sweep.objectives]
    others = dict.fromkeys(name.system for name in names if name.system)
    return sweep.points(assignment, list(dict.fromkeys([system, *others])))


def _outcomes(
    sweep: Sweep, evaluator: Evaluator, trials: Sequence[Trial]
) -> dict[Trial, tuple[list[float] | None, list[float]]]:
    """Return each trial's costs (None: it failed, or they are undefined) and what it misses constraints by."""
    if not trials:
        return {}
    assignments = list(dict.fromkeys(assignment for assignment, _ in trials))
    table = Results(sweep, evaluator.shelf, assignments).summary.set_index("candidate")
    found = {}
    for trial in trials:
        candidate = assignments.index(trial[0]) * len(sweep.systems) + sweep.systems.index(trial[1])
        row: dict[str, Any] = {str(key): value for key, value in table.loc[candidate].items()}
        costs = [float(each.cost(partial(_figure, row))) for each in sweep.objectives]
        miss = float(row["miss"])
        bad = row["failed"] or not row["n"] or any(map(math.isnan, costs)) or math.isnan(miss)
        found[trial] = (None if bad else costs, [miss if not math.isnan(miss) else 1.0])
    return found


def _figure(row: Mapping[str, Any], name: Name) -> Any:
    return row[name.metric]
