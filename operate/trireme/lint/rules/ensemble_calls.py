"""An ensemble and the models it calls: versions, tensors, batch sizes, streams.

Source of the rules: triton core, ``ValidateEnsembleConfig``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trireme.lint.finding import Complaint, did_you_mean, error, warning
from trireme.lint.rules.ensemble import STEP
from trireme.lint.subject import Rule, Subject
from trireme.repository.model_config import EnsembleStep, ModelConfig, TensorSpec


def called_models_exist(subject: Subject) -> Iterator[Complaint]:
    """The model and version of every step exist in the repository, and that model's version policy loads it."""
    if subject.folder is None:
        return
    for index, step in enumerate(subject.config.steps):
        folder = subject.repository.get(step.model)
        if not step.model:
            continue
        if folder is None:
            yield error(
                f"step {index} calls model '{step.model}', which is not in the repository",
                did_you_mean(step.model, subject.repository),
                *STEP,
                index,
                "model_name",
            )
            continue
        called = subject.neighbours.get(step.model)
        if called is None or step.version == -1:
            continue
        existing = folder.versions()
        loaded = called.version_policy.selects(existing)
        at = (*STEP, index, "model_version")
        if step.version not in existing and not existing and folder.recipe_path.is_file():
            yield warning(
                f"step {index} is pinned to version {step.version} of '{step.model}', which is not exported yet",
                f"run trireme export {step.model}",
                *at,
            )
        elif step.version not in existing:
            yield error(
                f"step {index} is pinned to version {step.version} of '{step.model}', which does not exist",
                f"pin an existing version: {', '.join(map(str, existing))}"
                if existing
                else f"add version {step.version}",
                *at,
            )
        elif step.version not in loaded:
            yield error(
                f"step {index} is pinned to version {step.version} of '{step.model}', which its version_policy does "
                f"not load (loaded: {', '.join(map(str, loaded)) or 'none'})",
                f"pin a loaded version, or add {step.version} to the version_policy in {called.path}",
                *at,
            )


def steps_fit_their_models(subject: Subject) -> Iterator[Complaint]:
    """A step maps all required inputs of its model, and only tensors that the model has."""
    for index, step, called in _calls(subject):
        for field, mapping, tensors in (
            ("input_map", step.inputs, called.inputs),
            ("output_map", step.outputs, called.outputs),
        ):
            names = [tensor.name for tensor in tensors]
            for key in mapping:
                # The backend completes a config without inputs or outputs at load time.
                if names and key not in names:
                    yield error(
                        f"model '{step.model}' has no {field[:-4]} '{key}'",
                        did_you_mean(key, names),
                        *STEP,
                        index,
                        field,
                        key,
                    )
        for tensor in called.inputs:
            if tensor.name not in step.inputs and not tensor.optional:
                yield error(
                    f"step {index} does not map the required input '{tensor.name}' of model '{step.model}'",
                    f'add input_map {{ key: "{tensor.name}" value: "..." }}',
                    *STEP,
                    index,
                    "input_map",
                )


def batch_sizes_fit(subject: Subject) -> Iterator[Complaint]:
    """No step with batching has a smaller ``max_batch_size`` than the ensemble."""
    ensemble_size = subject.config.max_batch_size
    for _, step, called in _calls(subject):
        if 0 < called.max_batch_size < ensemble_size:
            yield error(
                f"max_batch_size is {ensemble_size}, but that of model '{step.model}' is {called.max_batch_size}",
                f"set max_batch_size: {called.max_batch_size}, or raise it in {called.path}",
                "max_batch_size",
            )


@dataclass(frozen=True, slots=True)
class _Declaration:
    """A tensor as one model declares it."""

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
    declarations: dict[str, _Declaration] = {}
    for tensor in (*config.inputs, *config.outputs):
        # For the tensors of the ensemble itself, Triton compares the reshaped dims.
        shaped = TensorSpec(tensor.name, tensor.datatype, tensor.backend_dims)
        declarations.setdefault(tensor.name, _Declaration("the ensemble", shaped, config.max_batch_size > 0))
    for index, step, called in _calls(subject):
        for field, mapping, tensors in (
            ("input_map", step.inputs, called.inputs),
            ("output_map", step.outputs, called.outputs),
        ):
            for tensor in tensors:
                name = mapping.get(tensor.name)
                if name is None:
                    continue
                declared = _Declaration(f"'{step.model}'", tensor, called.max_batch_size > 0)
                first = declarations.setdefault(name, declared)
                if not _agree(first, declared):
                    yield error(
                        f"tensor '{name}' is {first} in {first.owner}, but {declared} in {declared.owner}",
                        "declare the same data type and shape in both",
                        *STEP,
                        index,
                        field,
                        tensor.name,
                    )


def _agree(left: _Declaration, right: _Declaration) -> bool:
    return left.tensor.datatype == right.tensor.datatype and (
        _matches(left.dims, right.dims) or _matches(left.full_dims, right.full_dims)
    )


def _matches(left: Sequence[int], right: Sequence[int]) -> bool:
    return len(left) == len(right) and all(a == b or -1 in (a, b) for a, b in zip(left, right, strict=True))


def streams_do_not_mix(subject: Subject) -> Iterator[Complaint]:
    """A step that joins tensors takes all of them from the same decoupled model, or none."""
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
                    "take all inputs of the step from the same decoupled model",
                    *STEP,
                    index,
                    "input_map",
                )
            decoupled = called.is_decoupled
            stream = f"{step.model} in step {index}" if decoupled else max(streams, default="")
            stream_of.update(dict.fromkeys(step.outputs.values(), stream))


def _calls(subject: Subject) -> Iterator[tuple[int, EnsembleStep, ModelConfig]]:
    """The steps whose model has a valid config in the repository."""
    for index, step in enumerate(subject.config.steps):
        called = subject.neighbours.get(step.model)
        if called is not None:
            yield index, step, called


RULES: tuple[Rule, ...] = (
    called_models_exist,
    steps_fit_their_models,
    batch_sizes_fit,
    connected_tensors_agree,
    streams_do_not_mix,
)
