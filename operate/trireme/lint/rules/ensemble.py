"""An ensemble by itself: its steps and the tensors between them.

Source of the rules: triton core, ``ValidateEnsembleSchedulingConfig``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from trireme.lint.finding import Complaint, did_you_mean, error, warning
from trireme.lint.subject import Rule, Subject
from trireme.repository.model_config import ModelConfig

STEP = ("ensemble_scheduling", "step")


def ensemble_is_declared(subject: Subject) -> Iterator[Complaint]:
    """An ensemble has ``platform: "ensemble"`` and steps."""
    message = subject.config.message
    scheduled = message.HasField("ensemble_scheduling")
    if scheduled and subject.config.platform != "ensemble":
        yield error(
            "ensemble_scheduling is set, but platform is not ensemble",
            'set platform: "ensemble"',
            "ensemble_scheduling",
        )
    elif subject.config.platform == "ensemble" and not subject.config.steps:
        yield error("the ensemble has no steps", "add ensemble_scheduling { step [ ... ] }", "ensemble_scheduling")


def ensemble_has_no_instances(subject: Subject) -> Iterator[Complaint]:
    """An ensemble has no instance groups, optimization or warm-up of its own; its steps do."""
    if not subject.config.is_ensemble:
        return
    message = subject.config.message
    for name in ("instance_group", "model_warmup"):
        if len(getattr(message, name)):
            yield error(f"{name} is not supported in an ensemble", "move it to the models of the steps", name)
    if message.HasField("optimization"):
        yield error(
            "optimization is not supported in an ensemble", "move it to the models of the steps", "optimization"
        )


def steps_are_complete(subject: Subject) -> Iterator[Complaint]:
    """Every step names its model, reads a tensor and writes one."""
    for index, step in enumerate(subject.config.steps):
        if not step.model:
            yield error(f"step {index} has no model_name", 'add model_name: "..."', *STEP, index)
        for field, mapping in (("input_map", step.inputs), ("output_map", step.outputs)):
            if not mapping:
                yield error(
                    f"step {index} ({step.model}) has no {field}",
                    f'add {field} {{ key: "<model\'s tensor>" value: "<ensemble\'s tensor>" }}',
                    *STEP,
                    index,
                )


def tensors_are_written_once(subject: Subject) -> Iterator[Complaint]:
    """No tensor of the ensemble is written by two steps, and no input is overwritten."""
    writers = defaultdict(list)
    for index, step in enumerate(subject.config.steps):
        for tensor in step.outputs.values():
            writers[tensor].append(index)
    inputs = {tensor.name for tensor in subject.config.inputs}
    for tensor, steps in writers.items():
        if len(steps) > 1:
            listed = " and ".join(_step_name(subject.config, index) for index in steps)
            yield error(
                f"tensor '{tensor}' is written by {listed}",
                "map each output to its own tensor",
                *STEP,
                steps[1],
                "output_map",
            )
        if tensor in inputs:
            yield warning(
                f"{_step_name(subject.config, steps[0])} overwrites the ensemble's input '{tensor}'",
                "map the output to its own tensor",
                *STEP,
                steps[0],
                "output_map",
            )


def tensors_are_connected(subject: Subject) -> Iterator[Complaint]:
    """Tensors are written before they are read, inputs and intermediate tensors are read, outputs are written."""
    config = subject.config
    if not config.steps:
        return
    inputs = {tensor.name for tensor in config.inputs}
    outputs = {tensor.name for tensor in config.outputs}
    written = {tensor for step in config.steps for tensor in step.outputs.values()}
    read = {tensor for step in config.steps for tensor in step.inputs.values()}
    for name in sorted(inputs - read - written):
        yield error(f"no step reads input '{name}'", "map it to a step, or remove it", "input", name)
    for name in sorted(outputs - written - inputs):
        yield error(f"no step writes output '{name}'", did_you_mean(name, written), "output", name)
    for index, step in enumerate(config.steps):
        for key, tensor in step.inputs.items():
            if tensor not in inputs | written:
                yield error(
                    f"step {index} ({step.model}) reads tensor '{tensor}', which no step writes",
                    did_you_mean(tensor, inputs | written),
                    *STEP,
                    index,
                    "input_map",
                    key,
                )
        for key, tensor in step.outputs.items():
            if tensor not in read | outputs:
                yield error(
                    f"step {index} ({step.model}) writes tensor '{tensor}', which no step reads",
                    "remove it from the output_map, or declare it as an output of the ensemble",
                    *STEP,
                    index,
                    "output_map",
                    key,
                )
    yield from _cycles(config, inputs)


def _cycles(config: ModelConfig, inputs: set[str]) -> Iterator[Complaint]:
    """Report steps that wait for each other: those that remain after every runnable step has run."""
    written = {tensor for step in config.steps for tensor in step.outputs.values()}
    ready = set(inputs)
    waiting = dict(enumerate(config.steps))
    while runnable := [
        index for index, step in waiting.items() if all(t in ready or t not in written for t in step.inputs.values())
    ]:
        for index in runnable:
            ready.update(waiting.pop(index).outputs.values())
    if waiting:
        first = next(iter(waiting))
        listed = ", ".join(_step_name(config, index) for index in waiting)
        yield error(f"steps wait for each other in a cycle: {listed}", "remove one of the connections", *STEP, first)


def versions_are_pinned(subject: Subject) -> Iterator[Complaint]:
    """Steps are pinned to versions: with -1, a new version of a model changes every ensemble that calls it."""
    for index, step in enumerate(subject.config.steps):
        if step.version == -1:
            yield warning(
                f"step {index} is not pinned: it calls the latest version of '{step.model}'",
                "set model_version, e.g. model_version: 1",
                *STEP,
                index,
                "model_version",
            )


def _step_name(config: ModelConfig, index: int) -> str:
    return f"step {index} ({config.steps[index].model})"


RULES: tuple[Rule, ...] = (
    ensemble_is_declared,
    ensemble_has_no_instances,
    steps_are_complete,
    tensors_are_written_once,
    tensors_are_connected,
    versions_are_pinned,
)
