"""TensorRT plans, as far as they can be judged without TensorRT and its GPU.

Not judged, since only TensorRT can read it: the plan's inputs and outputs, its optimisation profiles, and the GPU it
was built for.

Source of the layout: NVIDIA's answer in TensorRT issue 3073: the version stands in bytes 24 to 27 of a plan.
"""

from __future__ import annotations

from collections.abc import Iterator

from trireme.lint.finding import Complaint, warning
from trireme.lint.subject import Rule, Subject

_MAGIC = (b"ftrt", b"ptrt")
_VERSION = slice(24, 28)
# TensorRT of NGC's Triton 24.10. A plan is bound to the version it was built with, unless it was built compatible.
NGC_TENSORRT = (10, 5)


def plan_is_of_this_tensorrt(subject: Subject) -> Iterator[Complaint]:
    """A TensorRT plan was built with the TensorRT of NGC's image."""
    if subject.folder is None or subject.backend != "tensorrt":
        return
    for version in subject.versions():
        file = subject.folder.version_dir(version) / subject.config.model_filename
        if not file.is_file():
            continue
        with file.open("rb") as plan:
            header = plan.read(_VERSION.stop)
        if len(header) < _VERSION.stop or not header.startswith(_MAGIC):
            yield warning("the file does not begin like a TensorRT plan", "build it again with trtexec", file=file)
        elif tuple(header[_VERSION])[:2] != NGC_TENSORRT:
            built, ours = ".".join(map(str, header[_VERSION])), ".".join(map(str, NGC_TENSORRT))
            yield warning(
                f"the plan was built with TensorRT {built}, and NGC's image has {ours}",
                f"build it again with TensorRT {ours}, or with --versionCompatible",
                file=file,
            )


RULES: tuple[Rule, ...] = (plan_is_of_this_tensorrt,)
