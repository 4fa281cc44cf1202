from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trireme_backends.errors import FileError
from trireme_backends.routing.traffic import Traffic, TrafficFile, sticky_position
from trireme_backends.strict_json import read_json


def replace(path: Path, text: str) -> None:
    staged = path.with_suffix(".new")
    staged.write_text(text)
    staged.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traffic.json"


def test_percentages_are_read(path: Path) -> None:
    path.write_text('{"canary_percent": {"large": 12.5}}')
    traffic = read_json(path, Traffic)
    assert traffic.goes_to_canary("large", 12.4)
    assert not traffic.goes_to_canary("large", 12.5)
    assert not traffic.goes_to_canary("small", 0.0)


def test_zero_and_hundred_percent_are_no_key_and_every_key() -> None:
    traffic = Traffic({"none": 0.0, "all": 100.0})
    assert not traffic.goes_to_canary("none", 0.0)
    assert traffic.goes_to_canary("all", 99.999999)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not JSON"),
        ("[]", "canary_percent"),
        ('{"canary_percent": 5}', "must be a JSON object"),
        ('{"percent": {}}', "percent: unknown key; known: canary_percent"),
        ('{"canary_percent": {"large": 101}}', "canary_percent.large: is 101; it must be a number from 0 to 100"),
        ('{"canary_percent": {"large": -1}}', "canary_percent.large"),
        ('{"canary_percent": {"large": "5"}}', "canary_percent.large"),
        ('{"canary_percent": {"large": NaN}}', "canary_percent.large"),
        ('{"canary_percent": {"large": true}}', "canary_percent.large"),
    ],
)
def test_invalid_file_is_rejected_with_file_and_key(path: Path, text: str, sentence: str) -> None:
    path.write_text(text)
    with pytest.raises(FileError) as caught:
        read_json(path, Traffic)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


@given(st.text(min_size=1), st.floats(0, 100), st.floats(0, 100))
def test_key_stays_with_the_canary_while_the_percentage_grows(key: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    position = sticky_position(key)
    assert 0 <= position < 100
    assert position == sticky_position(key)
    if Traffic({"large": less}).goes_to_canary("large", position):
        assert Traffic({"large": more}).goes_to_canary("large", position)


def test_keys_spread_evenly() -> None:
    share = sum(sticky_position(f"user-{number}") < 20 for number in range(20_000)) / 20_000
    # Six standard deviations of a fair 20 %.
    assert abs(share - 0.2) < 0.017


def test_change_applies_at_the_next_lookup(path: Path) -> None:
    file = TrafficFile(path)
    assert file.current() == Traffic()
    replace(path, json.dumps({"canary_percent": {"large": 5}}))
    assert file.current() == Traffic({"large": 5.0})
    replace(path, json.dumps({"canary_percent": {"large": 6}}))
    assert file.current() == Traffic({"large": 6.0})
    path.unlink()
    assert file.current() == Traffic()
    assert file.errors == 0


def test_invalid_file_is_counted_once_and_the_last_valid_one_applies(path: Path) -> None:
    file = TrafficFile(path)
    replace(path, '{"canary_percent": {"large": 5}}')
    file.current()
    replace(path, "{")
    assert [file.current() for _ in range(3)] == [Traffic({"large": 5.0})] * 3
    assert file.errors == 1
    assert "not JSON" in str(file.last_error)
    replace(path, '{"canary_percent": {}}')
    assert file.current() == Traffic()
    assert file.last_error is None


def test_unreadable_file_counts_as_invalid(path: Path) -> None:
    path.mkdir()
    file = TrafficFile(path)
    assert file.current() == Traffic()
    assert file.errors == 1
