from __future__ import annotations

from trireme_backends.routing.breaker import BreakerState, CircuitBreaker


def test_opens_when_half_of_the_outcomes_are_failures() -> None:
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.succeeded()
        breaker.failed(0.0)
    assert breaker.state is BreakerState.CLOSED
    breaker.failed(0.0)
    assert breaker.state is BreakerState.OPEN


def test_stays_closed_when_few_of_many_fail() -> None:
    breaker = CircuitBreaker()
    for number in range(100):
        if number % 4:
            breaker.succeeded()
        else:
            breaker.failed(0.0)
    assert breaker.state is BreakerState.CLOSED


def test_one_failure_that_is_proof_opens() -> None:
    breaker = CircuitBreaker()
    breaker.failed(0.0, is_proof=True)
    assert breaker.state is BreakerState.OPEN


def test_one_probe_after_the_delay_and_success_closes() -> None:
    breaker = CircuitBreaker()
    breaker.failed(10.0, is_proof=True)
    assert not breaker.probe_due(10.1)
    assert breaker.probe_due(10.5)
    breaker.probe_sent()
    assert not breaker.probe_due(99.0)
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_delay_doubles_with_each_failed_probe_up_to_its_limit() -> None:
    breaker = CircuitBreaker()
    breaker.failed(0.0, is_proof=True)
    now, rests = 0.0, []
    for _ in range(7):
        rest = next(tenth / 10 for tenth in range(1, 200) if breaker.probe_due(now + tenth / 10))
        rests.append(rest)
        now += rest
        breaker.probe_sent()
        breaker.failed(now)
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_history_is_cleared_on_closing() -> None:
    breaker = CircuitBreaker()
    for _ in range(5):
        breaker.failed(0.0)
    breaker.probe_sent()
    breaker.succeeded()
    breaker.failed(1.0)
    assert breaker.state is BreakerState.CLOSED
