"""The contract of every model in the repository; the models are found by directory."""

from __future__ import annotations

import warnings

import pytest
import tritonclient.grpc as triton_grpc
from google.protobuf import text_format
from trireme.processes.server import TritonServer
from trireme.release.preflight import replay_golden
from trireme.repository.folders import ModelFolder, ModelRepository, is_version
from trireme.repository.golden import GoldenSample, load_golden
from trireme.repository.loading import plan_loading
from trireme.repository.model_config import TensorSpec, load_model_config
from trireme.settings import Settings
from trireme_client import OperatorClient
from tritonclient.grpc import model_config_pb2

from tests.deadlines import scaled

REPOSITORY = ModelRepository(Settings.from_environment().repository_dir)
LEFT_OUT = plan_loading(REPOSITORY).left_out


def needs_vllm(folder: ModelFolder) -> bool:
    config = load_model_config(folder.config_path)
    return config.backend == "vllm" or any(needs_vllm(REPOSITORY.model(step.model)) for step in config.steps)


# vLLM is installed only by make vllm; tests/vllm tests it.
FOLDERS = [folder for folder in REPOSITORY.models() if folder.name not in LEFT_OUT or not needs_vllm(folder)]
SAMPLES = [
    pytest.param(folder, sample, id=f"{folder.name}-{sample.case}")
    for folder in FOLDERS
    for sample in load_golden(folder)
]
each_model = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@each_model
def test_config_is_parsed_as_by_tritons_own_protobuf(folder: ModelFolder) -> None:
    message = model_config_pb2.ModelConfig()
    with warnings.catch_warnings(record=True) as warned:
        text_format.Parse(folder.config_path.read_text(encoding="utf-8"), message)
    assert not warned
    assert message.name in ("", folder.name)
    assert load_model_config(folder.config_path).message == message


@each_model
def test_version_directories_have_canonical_numbers(folder: ModelFolder) -> None:
    numbered = [entry.name for entry in folder.path.iterdir() if entry.is_dir() and entry.name[0].isdigit()]
    assert numbered, "a model without a version cannot be loaded"
    assert all(is_version(name) for name in numbered)


@each_model
def test_server_has_loaded_the_versions_that_the_policy_selects(
    folder: ModelFolder, triton: triton_grpc.InferenceServerClient
) -> None:
    selected = load_model_config(folder.config_path).version_policy.selects(folder.versions())
    index = triton.get_model_repository_index().models
    ready = sorted(int(entry.version) for entry in index if entry.name == folder.name and entry.state == "READY")
    assert ready == selected


@each_model
def test_metadata_matches_the_config(folder: ModelFolder, triton: triton_grpc.InferenceServerClient) -> None:
    config = load_model_config(folder.config_path)
    metadata = triton.get_model_metadata(folder.name)

    def expected(tensors: tuple[TensorSpec, ...]) -> dict[str, tuple[str, list[int]]]:
        batch = [-1] if config.max_batch_size else []
        return {tensor.name: (tensor.datatype, [*batch, *tensor.dims]) for tensor in tensors}

    assert {one.name: (one.datatype, list(one.shape)) for one in metadata.inputs} == expected(config.inputs)
    assert {one.name: (one.datatype, list(one.shape)) for one in metadata.outputs} == expected(config.outputs)


@each_model
def test_model_has_golden_samples(folder: ModelFolder) -> None:
    assert load_golden(folder), f"{folder.golden_dir} has no sample, so the model's outputs are not checked; add one"


@pytest.mark.parametrize(("folder", "sample"), SAMPLES)
def test_golden_sample_gives_the_expected_outputs(
    folder: ModelFolder, sample: GoldenSample, repository_server: TritonServer
) -> None:
    with OperatorClient(repository_server.grpc_address) as client:
        assert replay_golden(client, folder.name, [sample], deadline_seconds=scaled(60.0)) == ()
