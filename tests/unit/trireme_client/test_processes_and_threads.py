"""A client with several threads, tasks and processes."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest
from trireme_client import (
    AsyncTriremeClient,
    ClosedError,
    DeadlineError,
    FakeServer,
    InferResult,
    ServerFaultError,
    TriremeClient,
    UnavailableError,
)

from tests.deadlines import scaled
from tests.unit.trireme_client.conftest import act_when

ROW = {"X": [[1.0, 2.0]]}
HANG_GUARD_SECONDS = scaled(60.0)


def test_threads_get_their_own_results(fake):
    with TriremeClient(fake.address) as client:
        wrong = []

        def work(number):
            for step in range(20):
                x = np.array([[number, step]], np.float32)
                if client.infer("double", {"X": x})["Y"].tolist() != [[2 * number, 2 * step]]:
                    wrong.append((number, step))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_GUARD_SECONDS)
            assert not thread.is_alive()
    assert wrong == []
    assert fake.calls["ModelInfer"] == 64 * 20


def test_closing_ends_calls_in_flight(fake):
    client = TriremeClient(fake.address)
    client.infer("double", ROW)
    fake.delay("double", 60_000)
    arrived = act_when(lambda: len(fake.requests) == 2, client.close)
    with arrived, pytest.raises(ClosedError, match="closed during the call"):
        client.infer("double", ROW)


def test_tasks_get_their_own_results(fake):
    async def main():
        async with AsyncTriremeClient(fake.address) as client:
            answers = await asyncio.gather(*(client.infer("double", {"X": [[float(n), 0.0]]}) for n in range(200)))
        return [answer["Y"][0, 0] for answer in answers]

    assert asyncio.run(main()) == [2.0 * n for n in range(200)]


def first_calls(kind, address, count):
    """``count`` concurrent first calls of one client; returns results or errors."""

    async def tasks():
        async with AsyncTriremeClient(address) as client:
            return await asyncio.gather(*(client.infer("double", ROW) for _ in range(count)), return_exceptions=True)

    if kind == "asyncio":
        return asyncio.run(tasks())
    with TriremeClient(address) as client, ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(client.infer, "double", ROW) for _ in range(count)]
        return [call.exception(HANG_GUARD_SECONDS) or call.result() for call in calls]


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_many_first_calls_fetch_the_spec_once(fake, kind, monkeypatch):
    find = fake._find

    def find_slowly(name, context):
        time.sleep(0.2)
        return find(name, context)

    monkeypatch.setattr(fake, "_find", find_slowly)
    answers = first_calls(kind, fake.address, 16)
    assert [answer["Y"].tolist() for answer in answers] == [[[2.0, 4.0]]] * 16
    assert fake.calls["ModelConfig"] == 1


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_first_call_that_fails_fails_no_other(fake, kind, monkeypatch):
    find, fetches = fake._find, itertools.count()

    def find_after_a_failure(name, context):
        if next(fetches) == 0:
            time.sleep(0.2)
            context.abort(grpc.StatusCode.INTERNAL, "scripted failure")
        return find(name, context)

    monkeypatch.setattr(fake, "_find", find_after_a_failure)
    answers = first_calls(kind, fake.address, 8)
    assert [type(answer) for answer in answers].count(ServerFaultError) == 1
    assert [type(answer) for answer in answers].count(InferResult) == 7


def test_a_first_call_that_is_cancelled_leaves_the_fetch_to_the_next(fake, monkeypatch):
    find, fetches, cancelled = fake._find, itertools.count(), threading.Event()

    def find_after_the_first_is_cancelled(name, context):
        if next(fetches) == 0:
            cancelled.wait(HANG_GUARD_SECONDS)
        return find(name, context)

    async def main():
        async with AsyncTriremeClient(fake.address) as client:
            first = asyncio.create_task(client.infer("double", ROW))
            while not fake.calls["ModelConfig"]:
                await asyncio.sleep(0.01)
            second = asyncio.create_task(client.infer("double", ROW))
            await asyncio.sleep(0)
            first.cancel()
            answer = await second
            cancelled.set()
            return answer

    monkeypatch.setattr(fake, "_find", find_after_the_first_is_cancelled)
    assert asyncio.run(main())["Y"].tolist() == [[2.0, 4.0]]


def test_requests_of_a_split_call_run_four_at_once_and_return_in_order(fake):
    together, running, most, lock = threading.Barrier(4, timeout=HANG_GUARD_SECONDS), 0, 0, threading.Lock()

    def compute(inputs):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        time.sleep(0.05)  # long enough to notice a fifth
        with lock:
            running -= 1
        return {"Y": inputs["X"] * 2}

    fake.add_model("parts", inputs={"X": ("FP32", [1])}, outputs={"Y": ("FP32", [1])}, max_batch_size=8,
                   compute=compute)  # fmt: skip
    rows = np.arange(64, dtype=np.float32).reshape(64, 1)

    async def main():
        async with AsyncTriremeClient(fake.address) as client:
            return await client.infer("parts", {"X": rows})

    result = asyncio.run(main())
    assert result["Y"].tolist() == (rows * 2).tolist()
    assert (result.timings.requests, result.timings.attempts, most) == (8, 8, 4)


def test_a_request_of_a_split_call_that_fails_ends_the_others(fake):
    ended = threading.Event()

    def compute(inputs):
        if inputs["X"][0, 0] == 0:
            raise RuntimeError("scripted failure")
        ended.wait(HANG_GUARD_SECONDS)
        return {"Y": inputs["X"]}

    fake.add_model("parts", inputs={"X": ("FP32", [1])}, outputs={"Y": ("FP32", [1])}, max_batch_size=8,
                   compute=compute)  # fmt: skip

    async def main():
        async with AsyncTriremeClient(fake.address) as client:
            with pytest.raises(ServerFaultError, match="scripted failure"):
                await client.infer("parts", {"X": np.arange(64, dtype=np.float32)})
            ended.set()
            return await client.infer("double", ROW)

    assert asyncio.run(main())["Y"].tolist() == [[2.0, 4.0]]
    assert len([request for request in fake.requests if request.model == "parts"]) <= 4


def test_a_cancelled_task_cancels_its_request(fake):
    async def main():
        async with AsyncTriremeClient(fake.address) as client:
            await client.infer("double", ROW)
            fake.delay("double", 60_000)
            task = asyncio.create_task(client.infer("double", ROW))
            while len(fake.requests) < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            fake.delay("double", 0)
            return await client.infer("double", ROW)

    assert asyncio.run(main())["Y"].tolist() == [[2.0, 4.0]]
    assert fake.calls["ModelInfer"] == 3


def test_a_timeout_around_a_call_is_the_callers(fake):
    async def main():
        async with AsyncTriremeClient(fake.address) as client:
            await client.infer("double", ROW)
            fake.delay("double", 60_000)
            await asyncio.wait_for(client.infer("double", ROW), 0.1)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())


def test_leaving_a_streams_loop_cancels_it(fake):
    ended = threading.Event()

    def stream(_):
        try:
            for number in range(1_000_000):
                yield {"I": [number]}
        finally:
            ended.set()

    fake.add_model("long", inputs={"N": ("INT32", [1])}, outputs={"I": ("INT32", [1])}, stream=stream)
    with TriremeClient(fake.address) as client:
        for _ in client.stream("long", {"N": [0]}):
            break
        assert ended.wait(HANG_GUARD_SECONDS)
        assert client.infer("double", ROW)["Y"].tolist() == [[2.0, 4.0]]

    async def main():
        async with AsyncTriremeClient(fake.address) as client:
            async for _ in client.stream("long", {"N": [0]}):
                break
            return await client.infer("double", ROW)

    ended.clear()
    assert asyncio.run(main())["Y"].tolist() == [[2.0, 4.0]]
    assert ended.wait(HANG_GUARD_SECONDS)


def test_a_stream_whose_server_goes_silent_raises(fake):
    from trireme_client import HealthPolicy

    def stream(_):
        yield {"I": [0]}
        threading.Event().wait(30)

    fake.add_model("stuck", inputs={"N": ("INT32", [1])}, outputs={"I": ("INT32", [1])}, stream=stream)
    health = HealthPolicy(interval_ms=50, probe_deadline_ms=2000)
    with TriremeClient(fake.address, health=health) as client:
        answers = client.stream("stuck", {"N": [0]}, deadline_ms=60_000)
        next(answers)
        fake.ready = False
        with pytest.raises(UnavailableError):
            next(answers)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_client_is_closed_while_it_probes_its_replicas(fake, kind):
    from trireme_client import HealthPolicy

    health = HealthPolicy(interval_ms=50, probe_deadline_ms=60_000, probe_model="double", probe_inputs=ROW)

    async def once_async():
        client = AsyncTriremeClient([fake.address, fake.address], health=health)
        await client.is_ready()
        while fake.calls["ModelInfer"] == 0:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(client.close(), HANG_GUARD_SECONDS)

    def once():
        client = TriremeClient([fake.address, fake.address], health=health)
        client.is_ready()
        while fake.calls["ModelInfer"] == 0:
            time.sleep(0.01)
        client.close()

    fake.delay("double", 60_000)
    began = time.monotonic()
    asyncio.run(once_async()) if kind == "asyncio" else once()
    assert time.monotonic() - began < HANG_GUARD_SECONDS


def _in_child(queue):
    try:
        PARENT.infer("double", ROW)
    except ClosedError as error:
        queue.put(str(error))


# Python 3.12 warns if other threads run, such as those of gRPC and of pytest-xdist.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_client_raises_closed_error_after_a_fork(fake):
    global PARENT
    with TriremeClient(fake.address) as PARENT:
        PARENT.infer("double", ROW)
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=_in_child, args=(queue,))
        child.start()
        child.join(HANG_GUARD_SECONDS)
        assert child.exitcode == 0
        assert f"created in process {os.getpid()} and does not survive a fork" in queue.get()
        assert PARENT.infer("double", ROW)["Y"].tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_clients_leave_no_thread_and_no_descriptor(fake, kind):
    process = psutil.Process()

    async def once_async():
        async with AsyncTriremeClient([fake.address, fake.address]) as client:
            await client.infer("double", ROW)

    def once():
        if kind == "asyncio":
            asyncio.run(once_async())
            return
        with TriremeClient([fake.address, fake.address]) as client:
            client.infer("double", ROW)

    for _ in range(10):
        once()
    threads, files = process.num_threads(), process.num_fds()
    for _ in range(40):
        once()
    # The numbers of the fake server's threads and of gRPC's pool vary by a few.
    assert process.num_threads() <= threads + 4
    assert process.num_fds() <= files + 6


def test_a_deadline_holds_while_other_threads_keep_the_interpreter(fake):
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            sum(range(1000))

    spinner = threading.Thread(target=spin)
    spinner.start()
    try:
        with TriremeClient(fake.address) as client:
            client.infer("double", ROW)
            fake.delay("double", 60_000)
            with pytest.raises(DeadlineError):
                client.infer("double", ROW, deadline_ms=100)
    finally:
        stop.set()
        spinner.join()


def test_the_fake_server_counts_and_validates():
    with FakeServer() as server, TriremeClient(server.address) as client:
        server.add_model("m", inputs={}, outputs={"Y": ("INT32", [1])}, compute=lambda _: {"Y": [1]})
        assert client.infer("m", {})["Y"].tolist() == [1]
        assert [request.model for request in server.requests] == ["m"]
        with pytest.raises(ValueError, match="either compute or stream"):
            server.add_model("n", inputs={}, outputs={})
        with pytest.raises(ValueError, match="unknown datatype 'FP31'"):
            server.add_model("n", inputs={"X": ("FP31", [1])}, outputs={}, compute=lambda _: {})
