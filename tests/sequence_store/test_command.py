"""``python -m sequence_store`` shows what is stored, and says what is wrong."""

from __future__ import annotations

import pytest
import redis

from sequence_store import RedisRingStore
from sequence_store.__main__ import main
from tests.sequence_store.samples import LAYOUT, append_one, grow

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


def test_inspect_shows_every_entry_and_every_fault(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = RedisRingStore(redis_url, "demo", LAYOUT, 16, 14)
    append_one(store, cycle_id="[red]morning\x1b[2J", at_ms=1_767_225_600_123, action=2, eligible=0b101)
    append_one(store)
    with redis.Redis.from_url(redis_url) as client:
        client.hset("{demo:40}:r:m", "1", "torn")
    assert main(["inspect", "m", "--tenant", "demo", "--redis", redis_url]) == 0
    shown = capsys.readouterr().out
    assert "2026-01-01T00:00:00.123+00:00" in shown
    assert "push" in shown
    assert "none push" in shown
    assert r"[red]morning\x1b[2J" in shown
    assert "\x1b[2J" not in shown
    assert "truncated: 4 bytes" in shown
    assert "2 entries appended" in shown


def test_stats_counts_what_is_there(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = RedisRingStore(redis_url, "demo", LAYOUT, 16, 14)
    for number in range(30):
        grow(store, 2, f"member-{number}")
    append_one(store, "last", log_row=b"row")
    with redis.Redis.from_url(redis_url) as client:
        key = next(iter(client.scan_iter("*:r:member-7")))
        client.hset(key, "0", "torn")
    assert main(["stats", "--tenant", "demo", "--redis", redis_url]) == 0
    shown = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in _rows(capsys.readouterr().out)}
    assert shown["members"] == "31"
    assert shown["entries"] == "60"
    assert shown["unreadable: truncated"] == "1"
    assert shown["log rows in the outbox"] == "1"
    assert shown[f"entries under layout {LAYOUT.fingerprint.hex()}"] == "60"
    assert int(shown["bytes in Redis"].replace(",", "")) > int(shown["value bytes"].replace(",", "")) > 0


def test_emptied_rings_are_not_counted(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = RedisRingStore(redis_url, "demo", LAYOUT, 16, 14)
    grow(store, 2)
    store.empty()
    assert main(["stats", "--tenant", "demo", "--redis", redis_url]) == 0
    assert main(["inspect", "m", "--tenant", "demo", "--redis", redis_url]) == 0
    shown = capsys.readouterr().out
    assert "member 'm' has no ring" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["inspect", "m", "--tenant", "{x}", "--redis", "redis://127.0.0.1:1"], "tenant '{x}'"),
        (["inspect", "", "--tenant", "demo", "--redis", "redis://127.0.0.1:1"], "member_id"),
        (["stats", "--tenant", "demo", "--redis", "redis://127.0.0.1:1"], "127.0.0.1:1"),
        (["stats", "--tenant", "demo", "--redis", "nonsense"], "redis://"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def _rows(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if line.startswith("│")]
