"""Schedulers: dynamic batching with queues and priorities, sequence batching, response cache.

Source of the rules: triton core, ``ValidateModelConfig``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2

from trireme.lint.finding import Complaint, error, warning
from trireme.lint.subject import Rule, Subject

_Control = model_config_pb2.ModelSequenceBatching.Control
_ID_TYPES = {"TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING"}
# A queue timeout below one millisecond drops almost every request that waits.
_SHORTEST_TIMEOUT_US = 1000


def preferred_batches_fit(subject: Subject) -> Iterator[Complaint]:
    """Preferred batch sizes are between 1 and ``max_batch_size``."""
    message = subject.config.message
    for path, batcher in (
        (("dynamic_batching",), message.dynamic_batching),
        (("sequence_batching", "oldest"), message.sequence_batching.oldest),
    ):
        for size in batcher.preferred_batch_size:
            if not 1 <= size <= subject.config.max_batch_size:
                yield error(
                    f"preferred_batch_size {size} is not between 1 and max_batch_size "
                    f"({subject.config.max_batch_size})",
                    "raise max_batch_size, or remove this size",
                    *path,
                    "preferred_batch_size",
                )


def priorities_are_in_range(subject: Subject) -> Iterator[Complaint]:
    """With priority levels, the default level and every level with its own queue policy exist."""
    batching = subject.config.message.dynamic_batching
    levels = batching.priority_levels
    if not levels:
        if batching.priority_queue_policy:
            yield warning(
                "priority_queue_policy has no effect without priority_levels",
                "add priority_levels and default_priority_level",
                "dynamic_batching",
                "priority_queue_policy",
            )
        return
    if not 1 <= batching.default_priority_level <= levels:
        yield error(
            f"default_priority_level is {batching.default_priority_level}, outside the levels 1 to {levels}",
            f"set default_priority_level to a level from 1 to {levels}",
            "dynamic_batching",
            "default_priority_level",
        )
    for level in sorted(batching.priority_queue_policy):
        if not 1 <= level <= levels:
            yield error(
                f"priority_queue_policy has the key {level}, outside the levels 1 to {levels}",
                f"use a level from 1 to {levels}",
                "dynamic_batching",
                "priority_queue_policy",
                str(level),
            )


def ordering_can_be_preserved(subject: Subject) -> Iterator[Complaint]:
    """``preserve_ordering`` excludes multiple priority levels and delayed requests."""
    batching = subject.config.message.dynamic_batching
    if not batching.preserve_ordering:
        return
    if batching.priority_levels > 1:
        yield error(
            f"preserve_ordering cannot be combined with {batching.priority_levels} priority levels",
            "remove preserve_ordering or priority_levels",
            "dynamic_batching",
            "preserve_ordering",
        )
    for path, policy in _queue_policies(subject):
        if policy.default_timeout_microseconds and policy.timeout_action == model_config_pb2.ModelQueuePolicy.DELAY:
            yield error(
                "preserve_ordering cannot be combined with timeout_action: DELAY",
                "set timeout_action: REJECT, or remove preserve_ordering",
                *path,
                "timeout_action",
            )


def queue_timeouts_are_in_microseconds(subject: Subject) -> Iterator[Complaint]:
    """Queue timeouts and delays are in microseconds; values that look like milliseconds are reported."""
    for path, policy in _queue_policies(subject):
        timeout_us = policy.default_timeout_microseconds
        if 0 < timeout_us < _SHORTEST_TIMEOUT_US:
            yield warning(
                f"the queue timeout is {timeout_us} microseconds, so almost every request that waits is dropped",
                f"set {timeout_us * 1000} for {timeout_us} ms",
                *path,
                "default_timeout_microseconds",
            )
    delay_us = subject.config.message.dynamic_batching.max_queue_delay_microseconds
    if delay_us >= 1_000_000:
        yield warning(
            f"the batcher may delay a request by {delay_us / 1e6:g} s",
            "lower the value; its unit is microseconds",
            "dynamic_batching",
            "max_queue_delay_microseconds",
        )


def _queue_policies(subject: Subject) -> Iterator[tuple[tuple[str, ...], Any]]:
    batching = subject.config.message.dynamic_batching
    yield ("dynamic_batching", "default_queue_policy"), batching.default_queue_policy
    for level, policy in sorted(batching.priority_queue_policy.items()):
        yield ("dynamic_batching", "priority_queue_policy", str(level), "value"), policy


def batching_has_a_batch(subject: Subject) -> Iterator[Complaint]:
    """Dynamic batching requires a batch dimension."""
    message = subject.config.message
    if message.HasField("dynamic_batching") and subject.config.max_batch_size == 0 and not subject.config.is_ensemble:
        yield warning(
            "dynamic_batching has no effect because max_batch_size is 0",
            "set max_batch_size to the largest batch of the model, or remove dynamic_batching",
            "dynamic_batching",
        )


def sequence_controls_are_well_formed(subject: Subject) -> Iterator[Complaint]:
    """Sequence controls have names, one tensor per kind, two values or an id type."""
    batching = subject.config.message.sequence_batching
    tensor_of_kind: dict[int, str] = {}
    names: set[str] = set()
    for index, control_input in enumerate(batching.control_input):
        at = ("sequence_batching", "control_input", index)
        if not control_input.name:
            yield error(f"control_input {index} has no name", 'add name: "..."', *at)
        elif control_input.name in names:
            yield error(f"control_input '{control_input.name}' is defined twice", "use one tensor per control", *at)
        names.add(control_input.name)
        for control in control_input.control:
            kind = _Control.Kind.Name(control.kind)
            if control.kind in tensor_of_kind:
                yield error(
                    f"{kind} is set by both '{tensor_of_kind[control.kind]}' and '{control_input.name}'",
                    "remove one of them",
                    *at,
                )
            tensor_of_kind[control.kind] = control_input.name
            yield from _control_values(kind, control, at)


def _control_values(kind: str, control: Any, at: tuple[str | int, ...]) -> Iterator[Complaint]:
    pairs = [
        list(pair) for pair in (control.int32_false_true, control.fp32_false_true, control.bool_false_true) if pair
    ]
    if kind == "CONTROL_SEQUENCE_CORRID":
        datatype = model_config_pb2.DataType.Name(control.data_type)
        if pairs:
            yield error(f"{kind} is an id and takes no false/true values", "remove the values", *at)
        if datatype not in _ID_TYPES:
            yield error(f"{kind} has data_type {datatype}", f"use one of {', '.join(sorted(_ID_TYPES))}", *at)
    elif len(pairs) != 1:
        yield error(
            f"{kind} has {len(pairs)} value fields",
            "set exactly one of int32_false_true, fp32_false_true, bool_false_true",
            *at,
        )
    elif len(pairs[0]) != 2:
        yield error(f"{kind} has {len(pairs[0])} values", "set two values: one for false, one for true", *at)


def slot_utilization_is_a_share(subject: Subject) -> Iterator[Complaint]:
    """``minimum_slot_utilization`` is between 0 and 1."""
    batching = subject.config.message.sequence_batching
    utilization = batching.direct.minimum_slot_utilization
    if batching.HasField("direct") and not 0 <= utilization <= 1:
        yield error(
            f"minimum_slot_utilization is {utilization:g}",
            "set a value from 0 to 1",
            "sequence_batching",
            "direct",
            "minimum_slot_utilization",
        )


def answers_can_be_cached(subject: Subject) -> Iterator[Complaint]:
    """The response cache excludes decoupled models and sequences."""
    message = subject.config.message
    if not message.response_cache.enable:
        return
    if subject.config.is_decoupled:
        yield error(
            "the response cache does not support decoupled models",
            "remove response_cache, or set decoupled: false",
            "response_cache",
        )
    if message.HasField("sequence_batching"):
        yield error("the response cache does not support sequence_batching", "remove response_cache", "response_cache")


RULES: tuple[Rule, ...] = (
    preferred_batches_fit,
    priorities_are_in_range,
    ordering_can_be_preserved,
    queue_timeouts_are_in_microseconds,
    batching_has_a_batch,
    sequence_controls_are_well_formed,
    slot_utilization_is_a_share,
    answers_can_be_cached,
)
