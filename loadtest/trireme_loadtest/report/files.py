"""The files of a run: the record, and reports for people, scripts and CI."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from trireme.files import write_atomic

from trireme_loadtest.judge.verdict import SloOutcome, SloVerdict
from trireme_loadtest.record import LoadRecord, TaskSummary
from trireme_loadtest.report.html import html_report
from trireme_loadtest.report.text import PERCENTILES, measured_text, text_report


def write_reports(record: LoadRecord, verdict: SloVerdict | None, folder: Path) -> None:
    """Write ``run.json``, ``report.txt``, ``report.html`` and, with a verdict, ``junit.xml``."""
    record.write(folder / "run.json")
    write_atomic(folder / "report.txt", (text_report(record, verdict) + "\n").encode())
    write_atomic(folder / "report.html", html_report(record, verdict).encode())
    if verdict:
        write_atomic(folder / "junit.xml", junit(record, verdict))


def junit(record: LoadRecord, verdict: SloVerdict) -> bytes:
    """One test case per objective: broken ones fail, inconclusive ones are errors, so that a CI page shows both."""
    invalid = record.generator.problem is not None
    findings = verdict.findings
    broken, inconclusive = (
        sum(finding.outcome is outcome for finding in findings)
        for outcome in (SloOutcome.BROKEN, SloOutcome.INCONCLUSIVE)
    )
    suite = ElementTree.Element(
        "testsuite",
        name="trireme load",
        timestamp=record.started_at.isoformat(timespec="seconds"),
        time=f"{record.seconds:g}",
        tests=str(len(findings)),
        failures=str(0 if invalid else broken),
        errors=str(len(findings) if invalid else inconclusive),
    )
    for finding in findings:
        case = ElementTree.SubElement(
            suite, "testcase", classname=finding.objective.task or "all", name=finding.objective.key
        )
        text = f"limit {finding.objective.limit:g}, measured {measured_text(finding)}; {finding.reason}"
        if invalid:
            ElementTree.SubElement(case, "error", message=verdict.reason)
        elif finding.outcome is SloOutcome.BROKEN:
            ElementTree.SubElement(case, "failure", message=text)
        elif finding.outcome is SloOutcome.INCONCLUSIVE:
            ElementTree.SubElement(case, "error", message=text)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def summary(record: LoadRecord, verdict: SloVerdict | None) -> dict[str, Any]:
    """The output of ``trireme load run --json``."""
    names = [*record.tasks, *([None] if len(record.tasks) > 1 else [])]
    return {
        "started_at": record.started_at.isoformat(timespec="seconds"),
        "settings": dict(record.settings),
        "valid": record.generator.problem is None,
        "problem": record.generator.problem,
        "tasks": {task.name: _task(task) for task in map(record.task, names)},
        "verdict": verdict
        and {
            "outcome": verdict.outcome.name.lower(),
            "reason": verdict.reason,
            "objectives": [
                {
                    "task": finding.objective.task or "all",
                    "key": finding.objective.key,
                    "limit": finding.objective.limit,
                    "measured": _number(finding.measured),
                    "interval_95": [_number(finding.low), _number(finding.high)],
                    "outcome": finding.outcome.name.lower(),
                    "reason": finding.reason,
                }
                for finding in verdict.findings
            ],
        },
    }


def _task(task: TaskSummary) -> dict[str, Any]:
    return {
        "asked": task.asked,
        "asked_per_second": task.asked_rate,
        "answered_per_second": task.answered_rate,
        "errors": dict(task.errors),
        "latency_ms": {f"p{percent:g}": _number(task.latency.percentile_ms(percent)) for percent in PERCENTILES},
    }


def _number(value: float) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None
