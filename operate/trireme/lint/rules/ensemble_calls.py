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
        there = folder.versions()
        loaded = called.version_policy.selects(there)
        at = (*STEP, index, "model_version")
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
    """A step maps all required inputs of its model, and only tensors that the model has."""
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
                        did_you_mean(key, names),
                        *STEP,
                        index,
                        field,
                        key,
                    )
        for tensor in called.inputs:
            if tensor.name not in step.inputs and not tensor.optional:
                yield error(
                    f"step {index} gives model '{step.model}' no input '{tensor.name}'",
                    f'add input_map {{ key: "{tensor.name}" value: "..." }}',
                    *STEP,
                    index,
                    "input_map",
                )


def batch_sizes_fit(subject: Subject) -> Iterator[Complaint]:
    """No step with batching has a smaller ``max_batch_size`` than the ensemble."""
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
                        *STEP,
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
                    "take all inputs of a step from one decoupled model",
                    *STEP,
                    index,
                    "input_map",
                )
            decoupled = called.is_decoupled
            stream = f"{step.model} in step {index}" if decoupled else max(streams, default="")
            stream_of.update(dict.fromkeys(step.outputs.values(), stream))


def _calls(subject: Subject) -> Iterator[tuple[int, EnsembleStep, ModelConfig]]:
    """The steps whose model has a readable config beside the ensemble."""
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
