"""The graph of an ensemble: its steps, its tensors, and the models it calls.

Source of the rules: triton core, ``ValidateEnsembleSchedulingConfig`` and ``ValidateEnsembleConfig``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from trireme.config_source import nearest
from trireme.lint.finding import Complaint, error, warning
from trireme.lint.subject import Rule, Subject
from trireme.model_config import EnsembleStep, ModelConfig, TensorSpec

_STEP = ("ensemble_scheduling", "step")


def ensemble_is_declared(subject: Subject) -> Iterator[Complaint]:
    """An ensemble has ``platform: "ensemble"`` and steps."""
    message = subject.config.message
    scheduled = message.HasField("ensemble_scheduling")
    if scheduled and subject.config.platform != "ensemble":
        yield error(
            "ensemble_scheduling stands in a model that is no ensemble",
            'write platform: "ensemble"',
            "ensemble_scheduling",
        )
    elif subject.config.platform == "ensemble" and not subject.config.steps:
        yield error("the ensemble has no step", "add ensemble_scheduling { step [ ... ] }", "ensemble_scheduling")


def ensemble_has_no_instances(subject: Subject) -> Iterator[Complaint]:
    """An ensemble has no instance groups, optimization or warm-up of its own; its steps have them."""
    if not subject.config.is_ensemble:
        return
    message = subject.config.message
    for name in ("instance_group", "model_warmup"):
        if len(getattr(message, name)):
            yield error(f"an ensemble has no {name}", f"move {name} to the models of its steps", name)
    if message.HasField("optimization"):
        yield error("an ensemble has no optimization", "move it to the models of its steps", "optimization")


def steps_are_complete(subject: Subject) -> Iterator[Complaint]:
    """Every step names its model, reads a tensor and writes one."""
    for index, step in enumerate(subject.config.steps):
        if not step.model:
            yield error(f"step {index} names no model", 'add model_name: "..."', *_STEP, index)
        for field, mapping in (("input_map", step.inputs), ("output_map", step.outputs)):
            if not mapping:
                yield error(
                    f"step {index} ({step.model}) has no {field}",
                    f'add {field} {{ key: "<model\'s tensor>" value: "<ensemble\'s tensor>" }}',
                    *_STEP,
                    index,
                )


def tensors_are_written_once(subject: Subject) -> Iterator[Complaint]:
    """No tensor of the ensemble is written by two steps, or written over an input."""
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
                "give each output its own tensor",
                *_STEP,
                steps[1],
                "output_map",
            )
        if tensor in inputs:
            yield warning(
                f"{_step_name(subject.config, steps[0])} writes over the ensemble's input '{tensor}'",
                "give the output its own tensor",
                *_STEP,
                steps[0],
                "output_map",
            )


def tensors_are_connected(subject: Subject) -> Iterator[Complaint]:
    """Every tensor is written before it is read, every input and intermediate tensor is read, every output written."""
    config = subject.config
    if not config.steps:
        return
    inputs = {tensor.name for tensor in config.inputs}
    outputs = {tensor.name for tensor in config.outputs}
    written = {tensor for step in config.steps for tensor in step.outputs.values()}
    read = {tensor for step in config.steps for tensor in step.inputs.values()}
    for name in sorted(inputs - read - written):
        yield error(f"no step reads input '{name}'", "map it to a step, or drop it", "input", name)
    for name in sorted(outputs - written - inputs):
        yield error(f"no step writes output '{name}'", _did_you_mean(name, written), "output", name)
    for index, step in enumerate(config.steps):
        for key, tensor in step.inputs.items():
            if tensor not in inputs | written:
                yield error(
                    f"step {index} ({step.model}) reads '{tensor}', which nothing writes",
                    _did_you_mean(tensor, inputs | written),
                    *_STEP,
                    index,
                    "input_map",
                    key,
                )
        for key, tensor in step.outputs.items():
            if tensor not in read | outputs:
                yield error(
                    f"step {index} ({step.model}) writes '{tensor}', which nothing reads",
                    "drop it from the output_map, or make it an output of the ensemble",
                    *_STEP,
                    index,
                    "output_map",
                    key,
                )
    yield from _cycles(config, inputs)


def _cycles(config: ModelConfig, inputs: set[str]) -> Iterator[Complaint]:
    """Steps that wait for each other: what is left when all that can run has run."""
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
        yield error(f"these steps wait for each other in a circle: {listed}", "break the circle", *_STEP, first)


def called_models_exist(subject: Subject) -> Iterator[Complaint]:
    """The model and the version of every step are in the repository, and that model's version policy loads it."""
    if subject.folder is None:
        return
    for index, step in enumerate(subject.config.steps):
        folder = subject.repository.get(step.model)
        if not step.model:
            continue
        if folder is None:
            yield error(
                f"step {index} calls model '{step.model}', which is not in the repository",
                _did_you_mean(step.model, subject.repository),
                *_STEP,
                index,
                "model_name",
            )
            continue
        called = subject.neighbours.get(step.model)
        if called is None or step.version == -1:
            continue
        there = folder.versions()
        loaded = called.version_policy.selects(there)
        at = (*_STEP, index, "model_version")
        if step.version not in there and not there and folder.recipe_path.is_file():
            yield warning(
                f"step {index} is pinned to version {step.version} of '{step.model}', which is not made yet",
                f"run trireme export {step.model}",
                *at,
            )
        elif step.version not in there:
            yield error(
                f"step {index} is pinned to version {step.version} of '{step.model}', which does not exist",
                f"pin one of {', '.join(map(str, there)) or 'none'}",
                *at,
            )
        elif step.version not in loaded:
            yield error(
                f"step {index} is pinned to version {step.version} of '{step.model}', whose version policy loads "
                f"{', '.join(map(str, loaded)) or 'none'} only",
                f"pin a loaded version, or add {step.version} to the policy in {called.path}",
                *at,
            )


def steps_fit_their_models(subject: Subject) -> Iterator[Complaint]:
    """A step maps all inputs of its model that are not optional, and only tensors the model has."""
    for index, step, called in _calls(subject):
        for field, mapping, tensors in (
            ("input_map", step.inputs, called.inputs),
            ("output_map", step.outputs, called.outputs),
        ):
            names = [tensor.name for tensor in tensors]
            for key in mapping:
                # A config without inputs or outputs is completed by the backend on loading.
                if names and key not in names:
                    yield error(
                        f"model '{step.model}' has no {field[:-4]} '{key}'",
                        _did_you_mean(key, names),
                        *_STEP,
                        index,
                        field,
                        key,
                    )
        for tensor in called.inputs:
            if tensor.name not in step.inputs and not tensor.optional:
                yield error(
                    f"step {index} gives model '{step.model}' no input '{tensor.name}'",
                    f'add input_map {{ key: "{tensor.name}" value: "..." }}',
                    *_STEP,
                    index,
                    "input_map",
                )


def batch_sizes_fit(subject: Subject) -> Iterator[Complaint]:
    """No step that batches takes smaller batches than the ensemble."""
    own = subject.config.max_batch_size
    for _, step, called in _calls(subject):
        if 0 < called.max_batch_size < own:
            yield error(
                f"the ensemble takes batches of {own} and model '{step.model}' of {called.max_batch_size}",
                f"write max_batch_size: {called.max_batch_size}, or raise it in {called.path}",
                "max_batch_size",
            )


@dataclass(frozen=True, slots=True)
class _End:
    """One side of a connection: a tensor as one model declares it."""

    owner: str
    tensor: TensorSpec
    batching: bool

    @property
    def dims(self) -> tuple[int, ...]:
        return self.tensor.dims

    @property
    def full_dims(self) -> tuple[int, ...]:
        return (-1, *self.dims) if self.batching else self.dims

    def __str__(self) -> str:
        return f"{self.tensor.datatype} {list(self.dims)}"


def connected_tensors_agree(subject: Subject) -> Iterator[Complaint]:
    """All models that read or write a tensor agree on its data type and shape."""
    config = subject.config
    if not config.is_ensemble:
        return
    ends: dict[str, _End] = {}
    for tensor in (*config.inputs, *config.outputs):
        # Triton compares an ensemble's own tensors by their reshaped dims.
        shaped = TensorSpec(tensor.name, tensor.datatype, tensor.backend_dims)
        ends.setdefault(tensor.name, _End("the ensemble", shaped, config.max_batch_size > 0))
    for index, step, called in _calls(subject):
        for field, mapping, tensors in (
            ("input_map", step.inputs, called.inputs),
            ("output_map", step.outputs, called.outputs),
        ):
            for tensor in tensors:
                name = mapping.get(tensor.name)
                if name is None:
                    continue
                end = _End(f"'{step.model}'", tensor, called.max_batch_size > 0)
                first = ends.setdefault(name, end)
                if not _agree(first, end):
                    yield error(
                        f"tensor '{name}' is {first} for {first.owner} and {end} for {end.owner}",
                        "let both declare the same data type and shape",
                        *_STEP,
                        index,
                        field,
                        tensor.name,
                    )


def _agree(left: _End, right: _End) -> bool:
    return left.tensor.datatype == right.tensor.datatype and (
        _matches(left.dims, right.dims) or _matches(left.full_dims, right.full_dims)
    )


def _matches(left: Sequence[int], right: Sequence[int]) -> bool:
    return len(left) == len(right) and all(a == b or -1 in (a, b) for a, b in zip(left, right, strict=True))


def streams_do_not_mix(subject: Subject) -> Iterator[Complaint]:
    """A step that joins tensors takes them from the same decoupled model, or from none."""
    stream_of = {tensor.name: "" for tensor in subject.config.inputs}
    waiting = list(_calls(subject))
    while runnable := [call for call in waiting if all(t in stream_of for t in call[1].inputs.values())]:
        for index, step, called in runnable:
            waiting.remove((index, step, called))
            streams = {stream_of[tensor] for tensor in step.inputs.values()}
            if len(streams) > 1:
                listed = " and ".join(stream or "the request" for stream in sorted(streams))
                yield error(
                    f"step {index} ({step.model}) joins the streams of {listed}",
                    "take all inputs of a step from one decoupled model",
                    *_STEP,
                    index,
                    "input_map",
                )
            decoupled = called.message.model_transaction_policy.decoupled
            stream = f"{step.model} in step {index}" if decoupled else max(streams, default="")
            stream_of.update(dict.fromkeys(step.outputs.values(), stream))


def versions_are_pinned(subject: Subject) -> Iterator[Complaint]:
    """Steps are pinned to versions: with -1 a new version of a step moves every ensemble that calls it."""
    for index, step in enumerate(subject.config.steps):
        if step.version == -1:
            yield warning(
                f"step {index} calls whatever version of '{step.model}' is newest",
                "pin it: model_version: 1",
                *_STEP,
                index,
                "model_version",
            )


def _calls(subject: Subject) -> Iterator[tuple[int, EnsembleStep, ModelConfig]]:
    """The steps whose model has a readable config beside the ensemble."""
    for index, step in enumerate(subject.config.steps):
        called = subject.neighbours.get(step.model)
        if called is not None:
            yield index, step, called


def _step_name(config: ModelConfig, index: int) -> str:
    return f"step {index} ({config.steps[index].model})"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    meant = nearest(name, names)
    return f"write '{meant}'" if meant else f"one of {', '.join(names) or 'none'}"


RULES: tuple[Rule, ...] = (
    ensemble_is_declared,
    ensemble_has_no_instances,
    steps_are_complete,
    tensors_are_written_once,
    tensors_are_connected,
    called_models_exist,
    steps_fit_their_models,
    batch_sizes_fit,
    connected_tensors_agree,
    streams_do_not_mix,
    versions_are_pinned,
)
