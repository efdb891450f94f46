"""``python -m sequence_store`` shows what is stored, says what is wrong, and keeps it in order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sequence_store import packed
from sequence_store.__main__ import main
from sequence_store.registry import name_of
from tests.sequence_store.samples import DAY_MS, LAYOUT, append_one, grow, read_one
from tests.sequence_store.tenants import Tenant

pytestmark = pytest.mark.integration


@pytest.fixture
def tenant(redis_url: str) -> Iterator[Tenant]:
    tenant = Tenant(redis_url)
    yield tenant
    tenant.close()


class Command:
    """Runs commands on one tenant."""

    def __init__(self, tenant: Tenant, capsys: pytest.CaptureFixture[str]) -> None:
        self._tenant = tenant
        self._capsys = capsys

    def shown(self, *arguments: str) -> str:
        """Return what a command prints."""
        of_tenant = [] if "--all-tenants" in arguments else ["--tenant", self._tenant.name]
        assert main([*arguments, *of_tenant, "--redis", self._tenant.url]) == 0
        return self._capsys.readouterr().out

    def figures(self, *arguments: str) -> dict[str, Any]:
        """Return the JSON object on the last line that a command prints."""
        figures = json.loads(self.shown(*arguments).splitlines()[-1])
        assert isinstance(figures, dict)
        assert figures["command"] == arguments[0]
        return figures


@pytest.fixture
def command(tenant: Tenant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "300")
    return Command(tenant, capsys)


def now_ms() -> int:
    return round(time.time() * 1000)


def damage(tenant: Tenant, member_id: str, place: int) -> None:
    value = bytearray(tenant.value(member_id))
    value[place] ^= 1
    tenant.call("SET", tenant.keys.ring(member_id), bytes(value), "KEEPTTL")


def test_inspect_shows_every_entry(tenant: Tenant, command: Command) -> None:
    store = tenant.open(ttl_days=14)
    append_one(store, cycle_id="[red]morning\x1b[2J", at_ms=1_767_225_600_123, action=2, eligible=0b101)
    dictionary = tenant.use_dictionary(1, now_ms())
    append_one(store, at_ms=now_ms())
    shown = command.shown("inspect", "m")
    assert "2026-01-01T00:00:00.123+00:00" in shown
    assert "push" in shown
    assert "none push" in shown
    assert r"[red]morning\x1b[2J" in shown
    assert "\x1b[2J" not in shown
    assert name_of(dictionary) in shown
    assert shown.count(LAYOUT.fingerprint.hex()) == 2
    assert "2 entries appended, 2 kept; generation 0" in shown
    assert "expires in 13 days, 23:59" in shown
    assert f"{len(tenant.value())} bytes, " in shown


def test_inspect_shows_what_is_wrong(tenant: Tenant, command: Command) -> None:
    store = tenant.open()
    grow(store, 3)
    damage(tenant, "m", packed.HEADER_BYTES + 10)
    shown = command.shown("inspect", "m")
    assert "checksum: CRC-32" in shown
    assert "damaged: " in shown
    assert "3 entries appended, 3 kept" in shown
    damage(tenant, "m", 5)
    shown = command.shown("inspect", "m")
    assert "damaged: " in shown
    assert "left out: header" in shown
    store.empty()
    append_one(store)
    tenant.call("SET", tenant.keys.ring("m"), b"\x09" + tenant.value()[1:])
    assert "foreign: " in command.shown("inspect", "m")
    append_one(store, "other")
    tenant.call("HDEL", tenant.keys.codecs, *_codecs(tenant))
    assert "foreign_codec: " in command.shown("inspect", "other")
    tenant.call("DEL", tenant.keys.generation(tenant.keys.bucket("other")))
    assert "foreign: " in command.shown("inspect", "other")


def _codecs(tenant: Tenant) -> list[bytes]:
    return [name for name in tenant.call("HKEYS", tenant.keys.codecs) if name.startswith(b"codec:")]


def test_stats_counts_what_is_there(tenant: Tenant, command: Command) -> None:
    store = tenant.open()
    now = now_ms()
    for number in range(30):
        for age_days in (20, 2):
            append_one(store, f"member-{number}", at_ms=now - age_days * DAY_MS)
    append_one(store, "last", log_row=b"row", at_ms=now + DAY_MS)
    append_one(store, "last", at_ms=now - DAY_MS // 2)
    damage(tenant, "member-7", packed.HEADER_BYTES + 10)
    foreign = bytes([packed.VERSION + 1]) + tenant.value("member-8")[1:]
    tenant.call("SET", tenant.keys.ring("member-8"), foreign)
    figures = command.figures("stats")
    expected = {"rings": 31, "looked_at": 31, "members": 30, "foreign": 1, "entries": 59, "outbox_rows": 1}
    assert {name: figures[name] for name in expected} == expected
    assert figures["faults"] == {"checksum": 1}
    assert figures["ages"] == {
        "from the future": 1, "< 1 h": 0, "< 1 d": 1, "< 7 d": 29, "< 14 d": 0, "older": 28,
    }  # fmt: skip
    for kind, name in (("formats", "2"), ("layouts", LAYOUT.fingerprint.hex())):
        assert figures[kind] == {name: {"entries": 59, "frame_bytes": figures["frame_bytes"]}}
    assert figures["memory_bytes"] > figures["value_bytes"] > figures["frame_bytes"] > 0
    assert figures["ratio"] == figures["avro_bytes"] / figures["frame_bytes"]
    assert figures["value_bytes"] == sum(
        len(tenant.value(member_id)) for member_id in ["last", *(f"member-{n}" for n in range(30) if n != 8)]
    )


def test_stats_of_a_sample_looks_at_no_more(tenant: Tenant, command: Command) -> None:
    store = tenant.open()
    for number in range(40):
        grow(store, 2, f"member-{number}")
    figures = command.figures("stats", "--sample", "10")
    assert (figures["rings"], figures["looked_at"], figures["entries"]) == (40, 10, 20)
    assert command.figures("stats", "--sample", "100")["looked_at"] == 40


def test_empty_and_sweep(tenant: Tenant, command: Command) -> None:
    store = tenant.open()
    for number in range(10):
        grow(store, 2, f"member-{number}")
    assert command.figures("empty")["emptied"] is True
    assert read_one(store, "member-1").entries == ()
    append_one(store, "member-0")
    figures = command.figures("stats")
    assert (figures["rings"], figures["members"], figures["entries"], figures["emptied"]) == (10, 1, 1, 9)
    assert figures["emptied_bytes"] == sum(len(tenant.value(f"member-{number}")) for number in range(1, 10))
    assert "emptied: " in command.shown("inspect", "member-1")
    assert command.figures("sweep")["freed"] == 9
    assert command.figures("stats")["rings"] == 1
    assert "member 'member-1' has no ring" in command.shown("inspect", "member-1")


def test_repush_takes_the_time_to_live_from_the_spec_of_the_deployment(
    tenant: Tenant,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = tenant.open()
    for age_days in (15, 9, 5):
        append_one(store, at_ms=now_ms() - age_days * DAY_MS)
    monkeypatch.setenv("PACER_VAR", str(tmp_path))
    assert main(["repush", "--tenant", tenant.name, "--redis", tenant.url]) == 1
    assert "--ttl-days is not given" in capsys.readouterr().err
    assert command.figures("repush", "--ttl-days", "14")["entries_aged"] == 1
    spec = Path("specs/notification.yaml").read_text(encoding="utf-8").replace("ttl_days: 14", "ttl_days: 7")
    (tmp_path / tenant.name).mkdir()
    (tmp_path / tenant.name / "spec.yaml").write_text(spec, encoding="utf-8")
    assert command.figures("repush")["entries_aged"] == 1
    assert [entry.sequence for entry in read_one(store).entries] == [2]


def test_dictionaries_from_training_to_retirement(tenant: Tenant, command: Command) -> None:
    first = tenant.use_dictionary(1, 0)
    store = tenant.open()
    for number in range(60):
        grow(store, 4, f"member-{number}")
    trained = command.figures("train-dictionary", "--size", "4096", "--sample", "240", "--force")
    assert (trained["previous"], trained["is_current"]) == (name_of(first), True)
    assert trained["bytes"] <= 4096
    assert trained["ratio_before"] > 0
    assert command.figures("retire", "--grace-hours", "0")["waiting"] == [name_of(first)]
    options = ("repush", "--ttl-days", "36500", "--rate", "0", "--recode", "--grace-hours", "0")
    report = command.figures(*options)
    assert (report["rewritten"], report["entries_recoded"]) == (60, 240)
    assert report["retirement"]["in_use"] == [name_of(first)]
    usage = command.figures("stats")["dictionaries"]
    assert usage[name_of(first)] == {
        "entries": 0, "frame_bytes": 0, "dictionary_bytes": len(first), "since_ms": 0, "is_current": False,
    }  # fmt: skip
    assert usage[trained["dictionary"]]["entries"] == 240
    assert usage[trained["dictionary"]]["is_current"]
    assert command.figures(*options)["retirement"]["forgotten"] == [name_of(first)]
    assert set(command.figures("stats")["dictionaries"]) == {trained["dictionary"]}
    assert [len(read_one(store, f"member-{number}").entries) for number in range(60)] == [4] * 60


def test_layouts_go_after_two_repushes_that_meet_no_entry_under_them(tenant: Tenant, command: Command) -> None:
    grow(tenant.open(), 4)
    options = ("repush", "--ttl-days", "36500", "--recode", "--grace-hours", "0")
    assert command.figures(*options)["retirement"]["layouts_unused"] == []
    command.figures("empty")
    assert command.figures(*options)["retirement"]["layouts_unused"] == [LAYOUT.fingerprint.hex()]
    assert command.figures(*options)["retirement"]["layouts_forgotten"] == [LAYOUT.fingerprint.hex()]
    assert command.figures("retire", "--grace-hours", "0")["layouts_forgotten"] == []


def test_erase_one_member(tenant: Tenant, command: Command) -> None:
    store = tenant.open()
    for member_id in ("m", "other"):
        append_one(store, member_id, log_row=json.dumps({"member_id": member_id, "who": "m"}).encode())
    shown = command.shown("erase", "m")
    assert "begins a new ring" in shown
    assert json.loads(shown.splitlines()[-1])["rows"] == 1
    assert tenant.value() == b""
    figures = command.figures("erase", "m", "--all-tenants", "--rows-json-field", "who")
    assert (figures["rings"], figures["rows"]) == (0, 1)
    assert len(read_one(store, "other").entries) == 1


def test_another_number_of_buckets_is_said_for_every_command(
    tenant: Tenant, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    grow(tenant.open(), 2)
    assert command.figures("stats", "--buckets", "7")["misplaced"] == 1
    assert command.figures("repush", "--ttl-days", "1", "--buckets", "7")["misplaced"] == 1
    assert command.figures("stats")["entries"] == 2


NOWHERE = ["--redis", "redis://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["inspect", "m", "--tenant", "{x}", *NOWHERE], "tenant '{x}'"),
        (["inspect", "", "--tenant", "demo", *NOWHERE], "member_id"),
        (["stats", "--tenant", "demo", *NOWHERE], "127.0.0.1:1"),
        (["stats", "--tenant", "demo", "--redis", "nonsense"], "redis://"),
        (["repush", "--tenant", "demo", "--ttl-days", "0", *NOWHERE], "ttl"),
        (["repush", "--tenant", "demo", "--ttl-days", "1", "--rate", "-1", *NOWHERE], "rate = -1.0"),
        (["sweep", "--tenant", "demo", *NOWHERE], "127.0.0.1:1"),
        (["empty", "--tenant", "demo", *NOWHERE], "127.0.0.1:1"),
        (["train-dictionary", "--tenant", "demo", *NOWHERE], "127.0.0.1:1"),
        (["retire", "--tenant", "demo", *NOWHERE], "127.0.0.1:1"),
        (["erase", "m", "--all-tenants", *NOWHERE], "127.0.0.1:1"),
        (["erase", "", "--tenant", "demo", *NOWHERE], "member_id"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
