"""The files of a run: the record, and the same in forms for people and for CI."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from trireme.files import write_atomic

from trireme_loadtest.record import LoadRecord
from trireme_loadtest.report_html import html_report
from trireme_loadtest.report_text import measured_text, text_report
from trireme_loadtest.verdict import Outcome, Verdict


def write_reports(record: LoadRecord, verdict: Verdict | None, folder: Path) -> None:
    """Write ``run.json``, ``report.txt``, ``report.html`` and, with a verdict, ``junit.xml``."""
    record.write(folder / "run.json")
    write_atomic(folder / "report.txt", (text_report(record, verdict) + "\n").encode())
    write_atomic(folder / "report.html", html_report(record, verdict).encode())
    if verdict:
        write_atomic(folder / "junit.xml", junit(record, verdict))


def junit(record: LoadRecord, verdict: Verdict) -> bytes:
    """A test case an objective: broken ones fail, inconclusive ones are errors, so that a CI page shows both."""
    invalid = record.generator.problem is not None
    findings = verdict.findings
    suite = ElementTree.Element(
        "testsuite",
        name="trireme load",
        timestamp=record.started_at.isoformat(timespec="seconds"),
        time=f"{record.seconds:g}",
        tests=str(len(findings)),
        failures=str(0 if invalid else sum(finding.outcome is Outcome.BROKEN for finding in findings)),
        errors=str(len(findings) if invalid else sum(finding.outcome is Outcome.INCONCLUSIVE for finding in findings)),
    )
    for finding in findings:
        case = ElementTree.SubElement(
            suite, "testcase", classname=finding.objective.task or "all", name=finding.objective.key
        )
        text = f"limit {finding.objective.limit:g}, measured {measured_text(finding)}; {finding.reason}"
        if invalid:
            ElementTree.SubElement(case, "error", message=verdict.reason)
        elif finding.outcome is Outcome.BROKEN:
            ElementTree.SubElement(case, "failure", message=text)
        elif finding.outcome is Outcome.INCONCLUSIVE:
            ElementTree.SubElement(case, "error", message=text)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
