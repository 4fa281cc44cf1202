"""Language models behind a route and in releases, on ``trireme serve``; their engine has no weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from trireme.processes.server import ServerFlags
from trireme_client import TriremeClient
from trireme_loadtest.generate.traffic import ClientThreads

from tests.e2e.serving import Serve
from tests.servers import throw_away_server

MODELS = Path(__file__).parent / "generation_models"
ENGINE, VARIANT, ROUTE = "generation_economy_engine", "generation_economy", "text_generation"
WEIGHTS_BYTES = 100 * 1024 * 1024


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    serve = Serve(tmp_path_factory.mktemp("generation"), MODELS)
    try:
        serve.start()
        yield serve
    finally:
        serve.discard()


@pytest.fixture
def client(serve: Serve) -> Iterator[TriremeClient]:
    with TriremeClient(f"127.0.0.1:{serve.grpc_port}") as client:
        yield client


def version_source(
    directory: Path, *, prefix: str = "", ms_per_token: int = 1, fails_on: str = "", weights_bytes: int = 0
) -> Path:
    """A version of the engine to publish."""
    directory.mkdir()
    voice = {"ms_per_token": ms_per_token, "prefix": prefix, "fails_on": fails_on}
    (directory / "model.py").write_text((MODELS / ENGINE / "1" / "model.py").read_text())
    (directory / "voice.json").write_text(json.dumps(voice))
    with (directory / "weights.bin").open("wb") as weights:
        weights.truncate(weights_bytes)
    return directory


def serving_version(client: TriremeClient) -> str:
    return "".join(chunk.text for chunk in client.generate(ROUTE, "version?"))


def test_the_route_selects_the_variant_that_streams(client: TriremeClient) -> None:
    chunks = list(client.generate(ROUTE, "one two three", sampling_parameters={"max_tokens": 2}))
    assert [chunk.text for chunk in chunks] == ["one", " two"]
    assert [chunk.finish_reason for chunk in chunks] == [None, "length"]
    assert {(chunk.model, chunk.num_input_tokens) for chunk in chunks} == {(VARIANT, 3)}
    premium = list(client.generate(ROUTE, "one", tier="premium"))
    assert {chunk.model for chunk in premium} == {"generation_premium"}


def test_an_unsupported_request_goes_to_another_variant(client: TriremeClient) -> None:
    (chunk,) = client.generate(ROUTE, "one", sampling_parameters={"logprobs": 0})
    assert chunk.model == "generation_premium"
    assert json.loads(chunk.reason)["tried"] == [{"variant": VARIANT, "fault": "unsupported"}]
    assert [chunk.model for chunk in client.generate(ROUTE, "one")] == [VARIANT]


def test_a_chat_is_streamed(client: TriremeClient) -> None:
    chunks = list(client.generate(ROUTE, messages=[{"role": "user", "content": "hello there"}]))
    assert "".join(chunk.text for chunk in chunks) == "hello there"


def test_ask_sends_one_request_to_the_route_and_a_variant(serve: Serve) -> None:
    for target in (ROUTE, VARIANT):
        responses = json.loads(serve.verb("ask", target, "hello there", "--json").stdout)
        assert [(response["answer"], response["variant"]) for response in responses] == [("hello there", VARIANT)]


def test_reports_of_callers_move_a_fast_request_to_the_fast_variant(client: TriremeClient) -> None:
    # The premium engine takes 4 ms per token, the economy one 1 ms; route.json expects far more for both.
    for _ in range(20):
        for tier in ("economy", "premium"):
            list(client.generate(ROUTE, "a b c d e f g h", tier=tier))
    reason = json.loads(next(client.generate(ROUTE, "a", tier="premium")).reason)
    assert reason["predicted_p95_ms_per_token"] < 32
    (chunk,) = client.generate(ROUTE, "a", tier="premium", max_ms_per_token=0.5)
    assert json.loads(chunk.reason)["sla_at_risk"]


def test_a_variant_that_is_not_loaded_gets_no_request(serve: Serve) -> None:
    with (
        throw_away_server(ServerFlags(serve.repository, load_models=(ROUTE, VARIANT))) as server,
        TriremeClient(server.grpc_address) as client,
    ):
        chunks = list(client.generate(ROUTE, "one two", tier="premium"))
    assert "".join(chunk.text for chunk in chunks) == "one two"
    assert {chunk.model for chunk in chunks} == {VARIANT}
    assert json.loads(chunks[0].reason).keys().isdisjoint({"tried", "leave_after_ms"})


def test_route_explain_describes_a_streaming_route(serve: Serve) -> None:
    explained = serve.verb("route", "explain", "--task", ROUTE, "--param", "max_ttft_ms=30", "--json")
    assert explained.returncode == 0, explained.stderr
    assert VARIANT in explained.stdout


def test_a_version_that_fails_a_golden_sample_is_rejected(serve: Serve, tmp_path: Path) -> None:
    rejected = serve.verb("publish", ENGINE, str(version_source(tmp_path / "wrong", prefix="x")))
    assert rejected.returncode == 1
    assert "fails its golden samples" in rejected.stderr
    assert not (serve.repository / ENGINE / "2").exists()


def test_a_slow_version_is_reverted_by_its_canary(serve: Serve, client: TriremeClient, tmp_path: Path) -> None:
    published = serve.verb("publish", ENGINE, str(version_source(tmp_path / "slow", ms_per_token=8)))
    assert published.returncode == 0, published.stderr
    canary = serve.verb("canary", VARIANT, "--steps", "50", "--min-requests", "40", "--window-seconds", "1")
    assert canary.returncode == 1
    assert "p95" in canary.stderr
    assert serving_version(client) == "1"


def test_a_version_that_fails_only_callers_is_reverted(serve: Serve, client: TriremeClient, tmp_path: Path) -> None:
    # The canary's test requests use words of the golden samples and succeed.
    published = serve.verb("publish", ENGINE, str(version_source(tmp_path / "failing", fails_on="poison")))
    assert published.returncode == 0, published.stderr
    with ClientThreads([lambda: list(client.generate(ROUTE, "poison"))]):
        canary = serve.verb("canary", VARIANT, "--steps", "50", "--min-requests", "300", "--window-seconds", "1")
    assert canary.returncode == 1
    assert "errors" in canary.stderr
    assert serving_version(client) == "1"


def test_streams_continue_during_publish_canary_promotion_and_rollback(
    serve: Serve, client: TriremeClient, tmp_path: Path
) -> None:
    def generate() -> None:
        assert "".join(chunk.text for chunk in client.generate(ROUTE, "one two three four")) == "one two three four"

    with ClientThreads([generate]) as callers:
        # Long enough to outlive all that follows; it says its version at its end.
        words = 12_000
        running = client.generate(
            ROUTE, "word " * words + "version?", sampling_parameters={"max_tokens": words + 1}, deadline_ms=120_000
        )
        before = next(running).version
        good = version_source(tmp_path / "good", weights_bytes=WEIGHTS_BYTES)
        for arguments in (
            ("publish", ENGINE, str(good)),
            ("canary", VARIANT, "--steps=50,100", "--min-requests=60", "--max-error-excess=0.1", "--window-seconds=1"),
        ):
            done = serve.verb(*arguments)
            assert done.returncode == 0, done.stdout + done.stderr
        newest = serving_version(client)
        last = list(running)[-1]
        assert (before, last.text, last.finish_reason) == ("1", " 1", "stop")
        assert int(newest) > 1
        assert serve.verb("rollback", VARIANT).returncode == 0
        assert serving_version(client) == "1"
    assert callers.failures == []
