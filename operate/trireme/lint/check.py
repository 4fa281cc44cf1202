"""Runs every rule on the models at a path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from trireme.errors import TriremeError
from trireme.lint.finding import Complaint, Finding, LintReport, Severity
from trireme.lint.rules import ALL_RULES
from trireme.lint.subject import Subject, rule_name
from trireme.processes.machine import Machine
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import ParsedConfig, parse_model_config


def lint(path: Path, machine: Machine | None = None) -> LintReport:
    """Check a repository, a model folder (against its neighbours) or a single config file (alone).

    ``machine`` is the machine that would run the models; default: this one.

    Raises:
        TriremeError: no model exists at ``path``.
        OSError: a file cannot be read.
    """
    machine = machine or Machine.present()
    # Findings show paths as the caller wrote them, except "." and "..", which do not name a model.
    path = path.resolve() if path.name in ("", "..") else path
    if path.is_file():
        return _report([path.resolve().parent.name], _lint_file(path, machine))
    is_model = (path / "config.pbtxt").is_file()
    repository = ModelRepository(path.parent if is_model else path)
    folders = {folder.name: folder for folder in repository.models()}
    wanted = [path.name] if is_model else list(folders)
    if not wanted:
        raise TriremeError(
            f"{path}: no subfolder has a config.pbtxt; pass a model repository, a model folder or a config file"
        )
    parsed = {
        name: parse_model_config(folder.config_path.read_bytes(), folder.config_path)
        for name, folder in folders.items()
    }
    neighbours = {name: result.config for name, result in parsed.items() if result.config is not None}
    findings: list[Finding] = []
    for name in wanted:
        findings += _syntax(name, parsed[name], folders[name].config_path)
        if name in neighbours:
            subject = Subject(neighbours[name], folders[name], neighbours, folders, machine)
            findings += _run_rules(subject)
    if not is_model:
        findings += _folders_without_config(path)
    return _report(wanted, findings)


def _lint_file(path: Path, machine: Machine) -> Iterator[Finding]:
    parsed = parse_model_config(path.read_bytes(), path)
    yield from _syntax(path.resolve().parent.name, parsed, path)
    if parsed.config is not None:
        yield from _run_rules(Subject(parsed.config, None, {}, {}, machine))


def _syntax(model: str, parsed: ParsedConfig, path: Path) -> Iterator[Finding]:
    for error in parsed.problems:
        yield Finding(Severity.ERROR, "config-parses", model, path, error.place, error.problem, error.fix)


def _run_rules(subject: Subject) -> Iterator[Finding]:
    for rule in ALL_RULES:
        for complaint in rule(subject):
            yield _locate(complaint, rule_name(rule), subject)


def _locate(complaint: Complaint, rule: str, subject: Subject) -> Finding:
    path = complaint.file or subject.config.path
    place = None if complaint.file else subject.config.place(*complaint.at)
    return Finding(
        complaint.severity, rule, subject.config.path.parent.name, path, place, complaint.problem, complaint.fix
    )


def _folders_without_config(repository: Path) -> Iterator[Finding]:
    for entry in sorted(repository.iterdir()):
        if entry.is_dir() and not entry.name.startswith(".") and not (entry / "config.pbtxt").exists():
            yield Finding(
                Severity.WARNING,
                "config-is-there",
                entry.name,
                entry,
                None,
                "the folder has no config.pbtxt: Triton generates one or fails, trireme skips the folder",
                "add a config.pbtxt, or move the folder out of the repository",
            )


def _report(models: Iterable[str], findings: Iterable[Finding]) -> LintReport:
    return LintReport(tuple(models), tuple(findings))
