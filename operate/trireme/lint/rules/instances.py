"""Instances: devices, threads and rate limiter resources.

Source of the rules: triton core, ``ValidateInstanceGroup``, ``SetDefaultInstanceCount`` and ``ResourceManager``.
"""

from __future__ import annotations

from collections.abc import Iterator

from trireme.lint.finding import Complaint, error, warning
from trireme.lint.subject import Rule, Subject
from trireme.repository.resource_requirements import compute_threads


def devices_are_present(subject: Subject) -> Iterator[Complaint]:
    """The GPUs of an instance group exist on this machine; an instance group of kind CPU or MODEL names none."""
    gpus = subject.machine.gpus
    for index, group in enumerate(subject.config.instance_groups):
        at = ("instance_group", index)
        if group.kind in ("CPU", "MODEL"):
            if group.gpus:
                yield error(f"KIND_{group.kind} lists GPUs", "remove gpus, or set kind: KIND_GPU", *at, "gpus")
        elif group.kind == "GPU" and not gpus:
            yield error(
                "KIND_GPU requires a GPU, and this machine has none",
                "set kind: KIND_AUTO to use a GPU if present, or KIND_CPU",
                *at,
                "kind",
            )
        elif group.kind == "GPU":
            for gpu in group.gpus:
                if not 0 <= gpu < gpus:
                    yield error(
                        f"GPU {gpu} does not exist, this machine has {gpus}",
                        f"use a number from 0 to {gpus - 1}",
                        *at,
                        "gpus",
                    )


def profiles_are_for_tensorrt(subject: Subject) -> Iterator[Complaint]:
    """Optimisation profiles are numbers from 0, in TensorRT models only."""
    for index, group in enumerate(subject.config.message.instance_group):
        at = ("instance_group", index, "profile")
        if group.profile and subject.backend != "tensorrt":
            yield error("profile is supported in TensorRT models only", "remove it", *at)
            continue
        for profile in group.profile:
            if not profile.isdecimal():
                yield error(f"profile '{profile}' is not a number", 'use a number from 0, e.g. "0"', *at)


def threads_fit_the_cores(subject: Subject) -> Iterator[Complaint]:
    """All instances of a model together have no more threads than the machine has cores."""
    threads = compute_threads(subject.config, subject.machine)
    if threads > subject.machine.cores:
        instances = "instance_group"
        yield warning(
            f"the instances run {threads} threads on {subject.machine.cores} cores and slow each other down",
            "lower the thread count or the instance count",
            instances,
        )


def resources_are_consistent(subject: Subject) -> Iterator[Complaint]:
    """A rate limiter resource is global in all models or in none."""
    if subject.config.is_ensemble:
        return
    scope: dict[str, tuple[bool, str]] = {}
    for name, config in sorted(subject.neighbours.items(), key=lambda item: item[0] == subject.config.name):
        for index, group in enumerate(config.message.instance_group):
            for resource in group.rate_limiter.resources:
                is_global, owner = scope.setdefault(resource.name, (bool(getattr(resource, "global")), name))
                if name == subject.config.name and is_global != bool(getattr(resource, "global")):
                    yield warning(
                        f"resource '{resource.name}' is global in one model and not in another (see '{owner}'), which "
                        "Triton rejects with --rate-limit=execution_count",
                        "set the same value of global in all models",
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
