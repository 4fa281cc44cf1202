"""The verdict on a run: met, broken, or inconclusive."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from trireme_loadtest.histogram import Histogram
from trireme_loadtest.judge.slo import Objective, Slo
from trireme_loadtest.record import LoadRecord, TaskSummary


class SloOutcome(enum.Enum):
    """Outcome of a run; the value is the exit code of the command."""

    MET = 0
    BROKEN = 1
    INCONCLUSIVE = 3


@dataclass(frozen=True, slots=True)
class ObjectiveResult:
    """One objective and its value in the run.

    Attributes:
        measured, low, high: the value and its 95 % confidence interval; ``high`` may be infinite, ``measured`` NaN.
        reason: a sentence for the reader; empty if the objective is clearly met.
    """

    objective: Objective
    outcome: SloOutcome
    measured: float
    low: float
    high: float
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.objective.task or 'all'}: {self.objective.key}"


@dataclass(frozen=True, slots=True)
class SloVerdict:
    """All findings of a run, and their outcome."""

    outcome: SloOutcome
    findings: Sequence[ObjectiveResult]
    reason: str = ""


def judge(record: LoadRecord, slo: Slo) -> SloVerdict:
    """Compare ``record`` with ``slo``.

    A percentile is met if its whole confidence interval is within the limit, and broken if all of it is above. A run
    limited by its own generator is inconclusive, whatever its numbers.
    """
    findings = [_find(record.task(objective.task), objective) for objective in slo.objectives]
    if record.generator.problem:
        return SloVerdict(SloOutcome.INCONCLUSIVE, findings, f"invalid: {record.generator.problem}")
    for outcome in (SloOutcome.BROKEN, SloOutcome.INCONCLUSIVE):
        if any(finding.outcome is outcome for finding in findings):
            return SloVerdict(outcome, findings)
    return SloVerdict(SloOutcome.MET, findings)


def _find(task: TaskSummary, objective: Objective) -> ObjectiveResult:
    if objective.measure == "error_rate":
        return _error_rate(task, objective)
    if objective.measure == "minimum_rate":
        met = task.answered_rate >= objective.limit
        return ObjectiveResult(
            objective,
            SloOutcome.MET if met else SloOutcome.BROKEN,
            task.answered_rate,
            task.answered_rate,
            task.answered_rate,
            "" if met else f"of {task.asked_rate:.1f} requests/s, {task.answered_rate:.1f}/s succeeded",
        )
    if objective.measure == "minimum_token_rate":
        rate = task.token_rate
        outcome = SloOutcome.MET if rate >= objective.limit else SloOutcome.BROKEN
        return ObjectiveResult(objective, outcome, rate, rate, rate, "" if rate else "the model does not stream")
    histogram = {
        "latency": task.latency,
        "ttft": task.first_response,
        "inter_token": task.between_responses,
    }[objective.measure]
    return _percentile(histogram, objective)


def _percentile(histogram: Histogram, objective: Objective) -> ObjectiveResult:
    limit = objective.limit
    if histogram.count == 0:
        reason = "nothing was measured: no request succeeded" + (
            "" if objective.measure == "latency" else ", or the model does not stream"
        )
        return ObjectiveResult(objective, SloOutcome.INCONCLUSIVE, math.nan, 0.0, math.inf, reason)
    measured = histogram.percentile_ms(objective.percent)
    low, high = histogram.percentile_interval_ms(objective.percent)
    if high <= limit:
        return ObjectiveResult(objective, SloOutcome.MET, measured, low, high)
    if low > limit:
        reason = f"{histogram.share_above(limit):.1%} of the requests took longer than {limit:g} ms"
        if histogram.least_ms > limit:
            reason = (
                f"no run can meet it on this machine: even the fastest request took {histogram.least_ms:.3g} ms, "
                f"{histogram.least_ms / limit:.1f} times the limit"
            )
        return ObjectiveResult(objective, SloOutcome.BROKEN, measured, low, high, reason)
    if math.isinf(high):
        needed = math.ceil(math.log(0.025) / math.log(objective.percent / 100))
        reason = f"too few samples: {histogram.count}; at least {needed} are needed"
    else:
        reason = "the limit is within the noise of this run; run longer"
    return ObjectiveResult(objective, SloOutcome.INCONCLUSIVE, measured, low, high, reason)


def _error_rate(task: TaskSummary, objective: Objective) -> ObjectiveResult:
    from scipy.stats import binomtest

    failed, asked, rate = task.failed, task.asked, task.error_rate
    # Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", 1934.
    low, high = map(float, binomtest(failed, asked).proportion_ci()) if asked else (0.0, 1.0)
    kinds = ", ".join(f"{count} {kind}" for kind, count in task.errors.items())
    if rate > objective.limit:
        return ObjectiveResult(objective, SloOutcome.BROKEN, rate, low, high, f"{failed} of {asked} failed: {kinds}")
    if objective.limit > 0 and asked * objective.limit < 1:
        needed = math.ceil(1 / objective.limit)
        reason = f"too few samples: {asked}, one failure would break it; at least {needed} are needed"
        return ObjectiveResult(objective, SloOutcome.INCONCLUSIVE, rate, low, high, reason)
    return ObjectiveResult(objective, SloOutcome.MET, rate, low, high)
