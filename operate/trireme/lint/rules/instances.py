"""Instances: devices, threads and the resources of the rate limiter.

Source of the rules: triton core, ``ValidateInstanceGroup``, ``SetDefaultInstanceCount`` and ``ResourceManager``.
"""

from __future__ import annotations

from collections.abc import Iterator

from trireme.lint.finding import Complaint, error, warning
from trireme.lint.subject import Rule, Subject
from trireme.repository.resource_requirements import compute_threads


def devices_are_present(subject: Subject) -> Iterator[Complaint]:
    """An instance group on GPUs finds them on this machine; one on CPU or KIND_MODEL names none."""
    gpus = subject.machine.gpus
    for index, group in enumerate(subject.config.instance_groups):
        at = ("instance_group", index)
        if group.kind in ("CPU", "MODEL"):
            if group.gpus:
                yield error(f"KIND_{group.kind} names GPUs", "drop the gpus, or write kind: KIND_GPU", *at, "gpus")
        elif group.kind == "GPU" and not gpus:
            yield error(
                "KIND_GPU on a machine without a GPU",
                "write kind: KIND_AUTO to use a GPU where there is one, or KIND_CPU",
                *at,
                "kind",
            )
        elif group.kind == "GPU":
            for gpu in group.gpus:
                if not 0 <= gpu < gpus:
                    yield error(
                        f"GPU {gpu} is not one of the {gpus} of this machine",
                        f"write a number from 0 to {gpus - 1}",
                        *at,
                        "gpus",
                    )


def profiles_are_for_tensorrt(subject: Subject) -> Iterator[Complaint]:
    """Optimisation profiles are numbers from 0, and exist in TensorRT models alone."""
    for index, group in enumerate(subject.config.message.instance_group):
        at = ("instance_group", index, "profile")
        if group.profile and subject.backend != "tensorrt":
            yield error("only TensorRT models have profiles", "drop the profile", *at)
            continue
        for profile in group.profile:
            if not profile.isdecimal():
                yield error(f"profile '{profile}' is no number", 'write one like "0"', *at)


def threads_fit_the_cores(subject: Subject) -> Iterator[Complaint]:
    """The threads of all instances of a model together are no more than the cores."""
    threads = compute_threads(subject.config, subject.machine)
    if threads > subject.machine.cores:
        instances = "instance_group"
        yield warning(
            f"its instances run {threads} threads on {subject.machine.cores} cores, and slow each other down",
            "lower the threads of an instance, or the instance count",
            instances,
        )


def resources_are_consistent(subject: Subject) -> Iterator[Complaint]:
    """A resource of the rate limiter is global in all models or in none."""
    if subject.config.is_ensemble:
        return
    scope: dict[str, tuple[bool, str]] = {}
    for name, config in sorted(subject.neighbours.items(), key=lambda item: item[0] == subject.config.name):
        for index, group in enumerate(config.message.instance_group):
            for resource in group.rate_limiter.resources:
                is_global, owner = scope.setdefault(resource.name, (bool(getattr(resource, "global")), name))
                if name == subject.config.name and is_global != bool(getattr(resource, "global")):
                    yield warning(
                        f"resource '{resource.name}' is global in one place ({owner}) and not in another",
                        "let all models say the same: with --rate-limit=execution_count Triton refuses it",
                        "instance_group",
                        index,
                        "rate_limiter",
                    )


RULES: tuple[Rule, ...] = (
    devices_are_present,
    profiles_are_for_tensorrt,
    threads_fit_the_cores,
    resources_are_consistent,
)
