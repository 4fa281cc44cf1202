"""API keys: authentication, rate limits, storage."""

from __future__ import annotations

import stat
import subprocess
import sys

import httpx
import pytest
from click.testing import CliRunner
from trireme.processes.ports import free_ports
from trireme_gateway.command import gateway_key

from tests.deadlines import scaled
from tests.e2e.gateway_process import GatewayProcess

ASK = {"model": "scripted", "prompt": "say=8 one two"}


def key_command(*arguments):
    result = CliRunner().invoke(gateway_key, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result.output.strip()


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    key_command("add", "first", "--keys", path)
    return path


@pytest.fixture(scope="module")
def locked(scripted, keys):
    """A gateway with API keys."""
    addresses = {"triton": scripted.grpc_address, "triton_http": scripted.http_address}
    with GatewayProcess(keys.parent, "--keys", str(keys), **addresses) as running:
        yield running


def test_only_requests_with_a_valid_key_are_accepted(locked, keys):
    key = key_command("add", "one", "--keys", keys)
    assert locked.post("completions", ASK, **bearer(key)).status_code == 200
    for headers in ({}, bearer("trireme-guess"), {"authorization": f"Basic {key}"}):
        answer = locked.post("completions", ASK, **headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    for path in ("/v1/models", "/v2/models/scripted", "/metrics"):
        assert httpx.get(locked.url + path).status_code == 401
        assert httpx.get(locked.url + path, headers=bearer(key)).status_code == 200
    assert httpx.get(f"{locked.url}/healthz").status_code == 200


def test_revoked_key_is_rejected_at_once(locked, keys):
    key = key_command("add", "leaving", "--keys", keys)
    assert locked.post("completions", ASK, **bearer(key)).status_code == 200
    assert "leaving: no limits" in key_command("list", "--keys", keys)
    key_command("revoke", "leaving", "--keys", keys)
    assert locked.post("completions", ASK, **bearer(key)).status_code == 401


def test_key_is_kept_as_a_hash_in_a_file_of_its_owner_and_never_logged(locked, keys):
    key = key_command("add", "secret", "--keys", keys)
    locked.post("completions", ASK, **bearer(key))
    assert key not in keys.read_text()
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert locked.wait_for_line(key="secret")["status"] == 200
    assert key not in locked.log_path.read_text()


def test_requests_over_a_keys_limit_get_retry_after(locked, keys):
    key = key_command("add", "rare", "--keys", keys, "--requests-per-minute", 2)
    first = locked.post("completions", ASK, **bearer(key))
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert locked.post("completions", ASK, **bearer(key)).status_code == 200
    refused = locked.post("completions", ASK, **bearer(key))
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


def test_tokens_over_a_keys_limit_are_paid_for_by_waiting(locked, keys):
    key = key_command("add", "frugal", "--keys", keys, "--tokens-per-minute", 10)
    assert locked.post("completions", ASK, **bearer(key)).json()["usage"]["total_tokens"] == 11
    refused = locked.post("completions", ASK, **bearer(key))
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "tokens"


def test_metrics_may_have_an_address_of_their_own(scripted, keys, tmp_path):
    (port,) = free_ports(1)
    options = ("--keys", str(keys), "--metrics-listen", f"127.0.0.1:{port}")
    with GatewayProcess(tmp_path, *options, triton=scripted.grpc_address):
        assert "trireme_gateway_requests_total" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 404


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--listen", "0.0.0.0:8080"), "--keys"),
        (("--listen", "8080"), "host:port"),
        (("--keys", "/nowhere/keys.json"), "gateway-key add"),
    ],
)
def test_gateway_refuses_to_start_open_to_others_or_without_its_keys(options, said):
    command = [sys.executable, "-m", "trireme_gateway", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=scaled(60), check=False)
    assert result.returncode == 1
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_file_of_keys_that_others_may_read_is_rejected(keys):
    keys.chmod(0o644)
    try:
        result = CliRunner().invoke(gateway_key, ["list", "--keys", str(keys)])
        assert result.exit_code == 1
        assert "chmod 600" in result.output
    finally:
        keys.chmod(0o600)
