"""What an environment with nothing but the client can do. Run by test_client_alone.py, in that environment."""

import asyncio
import importlib.util
import sys

import numpy
from trireme_client import AsyncTriremeClient, FakeServer, ModelNotFoundError, TriremeClient

for absent in ("trireme", "trireme_backends", "onnxruntime", "aiohttp"):
    assert importlib.util.find_spec(absent) is None, f"{absent} is installed, so this proves nothing"

with FakeServer() as server:
    server.add_model(
        "double",
        inputs={"X": ("FP32", [2])},
        outputs={"Y": ("FP32", [2])},
        max_batch_size=2,
        compute=lambda inputs: {"Y": inputs["X"] * 2},
    )
    server.add_model(
        "count",
        inputs={"N": ("INT32", [1])},
        outputs={"I": ("INT32", [1])},
        stream=lambda inputs: ({"I": [number]} for number in range(int(inputs["N"][0]))),
    )
    with TriremeClient(server.address) as client:
        assert client.infer("double", {"X": [[1, 2]] * 5})["Y"].tolist() == [[2.0, 4.0]] * 5
        assert [int(answer["I"][0]) for answer in client.stream("count", {"N": [3]})] == [0, 1, 2]
        try:
            client.infer("nope", {})
        except ModelNotFoundError as error:
            assert error.known == ("count", "double"), error  # noqa: PT017

    async def main():
        async with AsyncTriremeClient(server.address) as client:
            answers = await asyncio.gather(*(client.infer("double", {"X": [[n, 0]]}) for n in range(20)))
            assert [int(answer["Y"][0, 0]) for answer in answers] == [2 * n for n in range(20)]

    asyncio.run(main())
    try:
        TriremeClient("http://127.0.0.1:1").is_ready(deadline_ms=100)
    except ModuleNotFoundError as error:
        assert "trireme-client[http]" in str(error), error  # noqa: PT017
    else:
        raise AssertionError("HTTP works without its extra")

print(f"ok: Python {sys.version.split()[0]}, numpy {numpy.__version__}")
