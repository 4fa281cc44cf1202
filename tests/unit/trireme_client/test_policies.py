"""Policies are validated on creation, and budgets are respected."""

from __future__ import annotations

import dataclasses

import pytest
from trireme_client import HealthPolicy, HedgePolicy, RetryPolicy, SequenceStep, Tls, TriremeClient
from trireme_client.failure import FailureKind
from trireme_client.policy import Budget, Latencies
from trireme_client.transport import StatusError


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: RetryPolicy(max_attempts=0), "RetryPolicy.max_attempts is 0; it must be at least 1"),
        (lambda: RetryPolicy(budget_percent=101), "RetryPolicy.budget_percent"),
        (lambda: RetryPolicy(backoff_ms=10, max_backoff_ms=5), "RetryPolicy.max_backoff_ms"),
        (lambda: RetryPolicy(attempt_deadline_ms=0.5), "RetryPolicy.attempt_deadline_ms"),
        (lambda: HedgePolicy(percentile=100), "HedgePolicy.percentile"),
        (lambda: HedgePolicy(min_samples=0), "HedgePolicy.min_samples"),
        (lambda: HealthPolicy(interval_ms=0), "HealthPolicy.interval_ms"),
        (lambda: HealthPolicy(probe_inputs={"X": [1.0]}), "given together with probe_model"),
        (lambda: SequenceStep(0), "SequenceStep.id is 0"),
        (lambda: SequenceStep(""), "SequenceStep.id is ''"),
        (lambda: SequenceStep("é" * 65), "a name has 1 to 128 bytes"),
        (lambda: Tls(certificate="a.pem"), "certificate and key together"),
        (lambda: Tls(ca="/nowhere/ca.pem"), "file /nowhere/ca.pem does not exist"),
        (lambda: TriremeClient("a:1", compression="zip"), "compression is 'zip'"),
    ],
)
def test_an_invalid_value_is_reported_by_name(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


@pytest.mark.parametrize("policy", [RetryPolicy(), HedgePolicy(), HealthPolicy(), SequenceStep(1), Tls()])
def test_policies_are_frozen(policy):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(policy, dataclasses.fields(policy)[0].name, 1)


def test_a_budget_allows_its_floor_and_then_its_share():
    budget = Budget(10, floor=5)
    assert [budget.spend() for _ in range(6)] == [True] * 5 + [False]
    for _ in range(50):
        budget.earn()
    assert not budget.spend()
    for _ in range(50):
        budget.earn()
    assert [budget.spend() for _ in range(6)] == [True] * 5 + [False]


def test_a_long_quiet_time_saves_at_most_a_hundred():
    budget = Budget(10)
    for _ in range(1_000_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) == 100


def test_an_empty_budget_allows_nothing():
    budget = Budget(0)
    budget.earn()
    assert not budget.spend()


def test_the_percentile_is_of_the_recent_responses_of_each_model():
    latencies = Latencies(95, min_samples=100)
    for number in range(99):
        latencies.record("a", number)
    assert latencies.at_percentile("a") is None
    latencies.record("a", 99)
    assert latencies.at_percentile("a") == 95
    assert latencies.at_percentile("b") is None
    for _ in range(2000):
        latencies.record("a", 1.0)
    assert latencies.at_percentile("a") == 1.0


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", FailureKind.CONNECTION_LOST),
        ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped accepting", FailureKind.SERVER_STOPPING),
        ("UNAVAILABLE", "[request id: 5] Request timeout expired", FailureKind.QUEUE_TIMEOUT),
        ("UNAVAILABLE", "[request id: 5] Exceeds maximum queue size", FailureKind.QUEUE_FULL),
        ("UNAVAILABLE", "Request for unknown model: 'a' is not found", FailureKind.NOT_FOUND),
        ("UNAVAILABLE", "Request for unknown model: 'a' has no available versions", FailureKind.NOT_FOUND),
        ("NOT_FOUND", "Request for unknown model: 'a' version 9 is not found", FailureKind.NOT_FOUND),
        ("INTERNAL", "Stub process 'a_0_0' is not healthy.", FailureKind.MODEL_DEAD),
        ("INVALID_ARGUMENT", "Unable to find shared memory region: 'r'", FailureKind.REGION_UNKNOWN),
        ("INVALID_ARGUMENT", "unexpected shape for input 'X'", FailureKind.INVALID),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", FailureKind.DEADLINE),
        ("INTERNAL", "scripted failure", FailureKind.FAULT),
        ("PERMISSION_DENIED", "", FailureKind.FAULT),
    ],
)
def test_failures_are_classified(status, message, kind):
    assert FailureKind.of(StatusError(status, message)) is kind
