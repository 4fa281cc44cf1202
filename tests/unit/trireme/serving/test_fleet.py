from __future__ import annotations

import threading

from trireme.serving.fleet import StartTurn

from tests.deadlines import scaled

DEADLINE_SECONDS = scaled(20.0)


def test_servers_start_one_after_the_other_while_a_replica_is_ready() -> None:
    turn, order = StartTurn(lambda: True), []
    waiting, begun = threading.Event(), threading.Event()

    def start_second() -> None:
        waiting.set()
        with turn():
            order.append("second")
            begun.set()

    thread = threading.Thread(target=start_second)
    with turn():
        thread.start()
        waiting.wait(DEADLINE_SECONDS)
        assert not begun.wait(0.05)
        order.append("first")
    thread.join(DEADLINE_SECONDS)
    assert order == ["first", "second"]


def test_servers_start_together_if_no_replica_is_ready() -> None:
    serves = True
    turn, begun = StartTurn(lambda: serves), threading.Event()

    def start_second() -> None:
        with turn():
            begun.set()

    with turn():
        thread = threading.Thread(target=start_second)
        thread.start()
        # The last ready replica exits while others wait.
        serves = False
        assert begun.wait(DEADLINE_SECONDS)
    thread.join(DEADLINE_SECONDS)
    with turn():
        pass
