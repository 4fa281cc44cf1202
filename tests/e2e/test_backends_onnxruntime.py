"""The embedded onnxruntime backend on the real tritonserver, with graphs of a few nodes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tritonclient.grpc as triton_grpc
from onnx import TensorProto, helper
from trireme.processes.server import ServerFlags, TritonServer
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.deadlines import scaled
from tests.servers import throw_away_server

PATIENCE_SECONDS = scaled(30.0)
DOUBLER = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""


def graph(*nodes: onnx.NodeProto, inputs: dict[str, Any], outputs: dict[str, Any], **more: Any) -> onnx.ModelProto:
    """A graph; inputs and outputs are name: (ONNX type, shape with None for a free dimension)."""
    tensors = [
        [helper.make_tensor_value_info(name, *form) for name, form in side.items()] for side in (inputs, outputs)
    ]
    opset = helper.make_opsetid("", 17)
    return helper.make_model(helper.make_graph(nodes, "graph", *tensors, **more), opset_imports=[opset], ir_version=8)


def doubler(x: str = "x", y: str = "y", shape: tuple[int | None, ...] = (None, None)) -> onnx.ModelProto:
    """y = x + x."""
    form = (TensorProto.FLOAT, shape)
    return graph(helper.make_node("Add", [x, x], [y]), inputs={x: form}, outputs={y: form})


class Models:
    """Loads models one by one into a running server."""

    def __init__(self, server: TritonServer) -> None:
        self.server = server
        self.client = triton_grpc.InferenceServerClient(server.grpc_address)

    def write(self, name: str, model: onnx.ModelProto, config: str, filename: str = "model.onnx") -> None:
        version = self.server.flags.repository_dir / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        onnx.save(model, version / filename)
        (version.parent / "config.pbtxt").write_text(config)

    def load(self, name: str, model: onnx.ModelProto, config: str, **more: Any) -> dict[str, Any]:
        """Load a model; the configuration that Triton made of the file.

        Raises:
            InferenceServerException: the server refused, with its reason.
        """
        self.write(name, model, config, **more)
        self.client.load_model(name, client_timeout=PATIENCE_SECONDS)
        answer: dict[str, Any] = self.client.get_model_config(name, as_json=True)["config"]
        return answer

    def ask(self, name: str, inputs: dict[str, npt.NDArray[Any]], request_id: str = "") -> dict[str, npt.NDArray[Any]]:
        tensors = []
        for key, array in inputs.items():
            tensor = triton_grpc.InferInput(key, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        result = self.client.infer(name, tensors, request_id=request_id, client_timeout=PATIENCE_SECONDS)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    flags = ServerFlags(tmp_path_factory.mktemp("onnx"), load_models=(), exit_on_error=False)
    with throw_away_server(flags) as server:
        found = Models(server)
        with contextlib.closing(found.client):
            yield found


def refusal(load: Callable[[], object]) -> str:
    with pytest.raises(InferenceServerException) as caught:
        load()
    return str(caught.value)


@pytest.mark.parametrize(
    "backend",
    ['platform: "onnxruntime_onnx" backend: "onnxruntime"', 'platform: "onnxruntime_onnx"', 'backend: "onnxruntime"'],
)
def test_platform_backend_or_both_give_the_same_answer(models: Models, backend: str) -> None:
    models.load("either", doubler(), f"{backend} max_batch_size: 4 {DOUBLER}")
    assert models.ask("either", {"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2.0, 2.0]]


def test_another_platform_is_refused(models: Models) -> None:
    config = f'platform: "tensorrt_plan" backend: "onnxruntime" max_batch_size: 4 {DOUBLER}'
    refusal(lambda: models.load("clash", doubler(), config))
    assert "tensorrt_plan" in " ".join(models.server.errors_about("clash"))  # Triton itself refuses, in its log


def test_the_file_may_have_another_name(models: Models) -> None:
    config = f'backend: "onnxruntime" default_model_filename: "enc.onnx" max_batch_size: 4 {DOUBLER}'
    models.load("named", doubler(), config, filename="enc.onnx")
    assert models.ask("named", {"x": np.ones((1, 1), np.float32)})["y"].tolist() == [[2.0]]
    missing = f'backend: "onnxruntime" default_model_filename: "other.onnx" max_batch_size: 4 {DOUBLER}'
    assert "other.onnx is missing" in refusal(lambda: models.load("unnamed", doubler(), missing))


def test_outputs_are_completed_with_exact_names(models: Models) -> None:
    form = (TensorProto.FLOAT, (None, 3))
    model = graph(
        helper.make_node("Add", ["left", "right"], ["/emb/Gather_output_0"]),
        inputs={"left": form, "right": form},
        outputs={"/emb/Gather_output_0": form},
    )
    config = models.load(
        "complete",
        model,
        'platform: "onnxruntime_onnx" max_batch_size: 128 input ['
        '{ name: "left" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "right" data_type: TYPE_FP32 dims: [ 3 ] } ]',
    )
    assert config["name"] == "complete"
    assert config["output"] == [{"name": "/emb/Gather_output_0", "data_type": "TYPE_FP32", "dims": ["3"]}]
    assert "dynamic_batching" in config
    assert config["instance_group"][0]["count"] == 2  # Triton's own default for this backend on CPU
    ones = np.ones((2, 3), np.float32)
    assert models.ask("complete", {"left": ones, "right": ones})["/emb/Gather_output_0"].tolist() == [[2.0] * 3] * 2


def test_nothing_but_the_backend_completes_everything(models: Models) -> None:
    config = models.load("bare", doubler(), 'backend: "onnxruntime"')
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (4, ["-1"])
    assert models.ask("bare", {"x": np.ones((3, 2), np.float32)})["y"].shape == (3, 2)


def test_completion_to_a_batch_explains_the_clash_of_ranks(models: Models) -> None:
    input_alone = 'backend: "onnxruntime" input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 26 ] } ]'
    message = refusal(lambda: models.load("clash_of_ranks", doubler(shape=(None, 26)), input_alone))
    assert "[-1, -1, 26]" in message
    assert "dims: [26], or max_batch_size: 0" in message
    both = input_alone + ' output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, 26 ] } ]'
    config = models.load("no_batch", doubler(shape=(None, 26)), both)
    assert "max_batch_size" not in config
    assert models.ask("no_batch", {"x": np.ones((5, 26), np.float32)})["y"].shape == (5, 26)


def test_output_dims_must_be_the_graphs_and_input_dims_may_be_narrower(models: Models) -> None:
    narrow = """backend: "onnxruntime" max_batch_size: 2
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 8 ] } ]"""
    model = doubler(shape=(None, None, None))
    message = refusal(
        lambda: models.load("fixed", model, narrow + 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 3, 8 ] } ]')
    )
    assert "output 'y'" in message
    assert "write dims: [-1, -1]" in message
    models.load("free", model, narrow + 'output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, -1 ] } ]')
    assert models.ask("free", {"x": np.ones((1, 3, 8), np.float32)})["y"].shape == (1, 3, 8)


def test_scalars_of_a_batch_are_reshaped(models: Models) -> None:
    config = models.load("scalars", doubler(shape=(None,)), 'backend: "onnxruntime"')
    assert config["output"][0]["dims"] == ["1"]
    assert models.ask("scalars", {"x": np.array([[1], [2]], np.float32)})["y"].tolist() == [[2.0], [4.0]]


def test_state_is_refused_by_name(models: Models) -> None:
    form = (TensorProto.INT64, (None, 1))
    model = graph(
        helper.make_node("Add", ["off", "len"], ["r_off"]), inputs={"off": form, "len": form}, outputs={"r_off": form}
    )
    message = refusal(
        lambda: models.load(
            "stateful",
            model,
            """backend: "onnxruntime" max_batch_size: 8
            sequence_batching { oldest { max_candidate_sequences: 16 } state [ {
              input_name: "off" output_name: "r_off" data_type: TYPE_INT64 dims: [ 1 ]
              initial_state { data_type: TYPE_INT64 dims: [ 1 ] zero_data: true name: "zero" } } ] }
            input [ { name: "len" data_type: TYPE_INT64 dims: [ 1 ] } ]
            output [ { name: "r_off" data_type: TYPE_INT64 dims: [ 1 ] } ]""",
        )
    )
    assert "sequence_batching.state 'off'" in message
    assert "valid on NGC" in message


@pytest.mark.parametrize("form", ["[ {{ {0} }} ]", "{{ {0} }}"])
def test_accelerators_of_the_cpu_are_never_ignored_in_silence(models: Models, form: str) -> None:
    def config(name: str) -> str:
        entry = form.format(f'name: "{name}"')
        return f"""backend: "onnxruntime" max_batch_size: 4 {DOUBLER}
            optimization {{ execution_accelerators {{ cpu_execution_accelerator {entry} }} }}"""

    assert "vulkan" in refusal(lambda: models.load("vulkan", doubler(), config("vulkan")))
    models.load("openvino", doubler(), config("openvino"))
    assert models.ask("openvino", {"x": np.ones((1, 1), np.float32)})["y"].tolist() == [[2.0]]
    assert "cpu_execution_accelerator 'openvino'" in models.server.log_path.read_text()


def test_accelerators_of_a_gpu_do_not_matter_to_instances_on_the_cpu(models: Models) -> None:
    models.load(
        "tensorrt",
        doubler(),
        f"""backend: "onnxruntime" max_batch_size: 4 {DOUBLER} instance_group [ {{ kind: KIND_CPU }} ]
        optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{ name: "tensorrt"
          parameters {{ key: "precision_mode" value: "FP16" }} parameters {{ key: "made_up" value: "1" }} }} ] }} }}""",
    )
    assert models.ask("tensorrt", {"x": np.ones((1, 1), np.float32)})["y"].tolist() == [[2.0]]


def test_the_native_parameters_are_taken(models: Models) -> None:
    parameters = {
        "intra_op_thread_count": "1",
        "inter_op_thread_count": "1",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "0",
        "memory.enable_memory_arena_shrinkage": "",
        "session.use_device_allocator_for_initializers": "1",
    }
    written = " ".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    )
    config = f'backend: "onnxruntime" max_batch_size: 4 {DOUBLER} optimization {{ graph {{ level: -1 }} }} {written}'
    models.load("parameters", doubler(), config)
    assert models.ask("parameters", {"x": np.ones((1, 1), np.float32)})["y"].tolist() == [[2.0]]


def test_strings_pass_both_ways(models: Models) -> None:
    form = (TensorProto.STRING, (None, None))
    model = graph(helper.make_node("Identity", ["x"], ["y"]), inputs={"x": form}, outputs={"y": form})
    models.load("strings", model, 'backend: "onnxruntime"')
    texts = np.array([["käse 🧀", ""]], dtype=np.object_)
    assert [value.decode() for value in models.ask("strings", {"x": texts})["y"].reshape(-1)] == ["käse 🧀", ""]
    with pytest.raises(InferenceServerException, match=r"request 'bad': element \[0, 0\] of input 'x' is not UTF-8"):
        models.ask("strings", {"x": np.array([[b"\xff"]], dtype=np.object_)}, request_id="bad")


def test_one_bad_request_of_a_batch_fails_alone(models: Models) -> None:
    """Gather refuses an index that its table does not have, and with it the whole run."""
    model = graph(
        helper.make_node("Gather", ["table", "x"], ["y"]),
        inputs={"x": (TensorProto.INT64, (None, 1))},
        outputs={"y": (TensorProto.FLOAT, (None, 1))},
        initializer=[helper.make_tensor("table", TensorProto.FLOAT, [4], [0.0, 10.0, 20.0, 30.0])],
    )
    models.load(
        "table",
        model,
        """backend: "onnxruntime" max_batch_size: 4
        input [ { name: "x" data_type: TYPE_INT64 dims: [ 1 ] } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
        instance_group [ { kind: KIND_CPU count: 1 } ]
        dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 5000000 }""",
    )

    def ask(index: int) -> object:
        try:
            return models.ask("table", {"x": np.array([[index]])}, request_id=f"r{index}")["y"].item()
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, (1, 2, 99, 3)))
    assert [answers[0], answers[1], answers[3]] == [10.0, 20.0, 30.0]
    assert "request 'r99': ONNX Runtime failed" in str(answers[2])
    # Triton counts a batch after it has sent the responses.
    sizes: list[str] = []
    deadline = time.monotonic() + scaled(30)
    while not sizes and time.monotonic() < deadline:
        statistics = models.client.get_inference_statistics("table", as_json=True)["model_stats"][0]
        sizes = [batch["batch_size"] for batch in statistics.get("batch_stats", [])]
    assert sizes == ["4"]


def test_a_file_that_is_no_model_names_itself(models: Models) -> None:
    models.write("truncated", doubler(), f'backend: "onnxruntime" max_batch_size: 4 {DOUBLER}')
    path = models.server.flags.repository_dir / "truncated" / "1" / "model.onnx"
    Path(path).write_bytes(path.read_bytes()[:20])
    message = refusal(lambda: models.client.load_model("truncated", client_timeout=PATIENCE_SECONDS))
    assert f"ONNX Runtime cannot load {path}" in message
