"""Golden samples: what the agent, a release and a load test ask a model. Triton itself does not read them."""

from __future__ import annotations

from collections.abc import Iterator

from trireme.errors import ConfigError
from trireme.lint.finding import Complaint, error
from trireme.lint.subject import Rule, Subject
from trireme.repository.golden import golden_paths, read_golden


def golden_samples_are_readable(subject: Subject) -> Iterator[Complaint]:
    """Every file of ``golden/`` is a golden sample: a KServe request whose data fill their shapes, and its response."""
    for path in golden_paths(subject.folder) if subject.folder else ():
        try:
            read_golden(path)
        except ConfigError as found:
            # A release shows the sentence without the finding's own path.
            place = str(found).removeprefix(f"{path.parent.parent}/")
            yield error(place, "correct the file, or remove it", file=path)


RULES: tuple[Rule, ...] = (golden_samples_are_readable,)
