"""Tables for the terminal: a ring, a tenant in numbers, what a command did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table

from sequence_store.entry import Entry
from sequence_store.inspection import Frame, Inspection, Stats, Usage

_STATES = {
    "damaged": "parts of it are damaged; appends overwrite them in time",
    "emptied": "it was emptied and will be freed: readers see no ring",
    "foreign": "it is of another release, or of a generation that the tenant has not reached: readers see no ring",
}


def show_ring(console: Console, member_id: str, found: Inspection) -> None:
    """Print one member's ring."""
    if found.state == "absent":
        console.print(f"member {_printable(repr(member_id))} has no ring")
        return
    table = Table(title=f"ring of member {_printable(member_id)}")
    names = ("sequence", "at (UTC)", "action", "eligible", "mask key", "cycle", "notification", "model", "layout")
    for name in (*names, "dictionary", "bytes"):
        table.add_column(name)
    for frame in found.frames:
        table.add_row(*map(_printable, _cells(frame)), str(frame.stored_bytes))
    console.print(table)
    if found.state in _STATES:
        console.print(f"{found.state}: {_STATES[found.state]}")
    for fault in found.faults:
        console.print(f"left out: {fault}")
    if found.header is not None:
        header = found.header
        console.print(
            f"{header.count} entries appended, {header.live} kept; generation {header.generation}, incarnation "
            f"{header.incarnation:08x}, pointer {header.pointer}"
        )
    expiry = "never expires"
    if found.expires_in_ms is not None:
        expiry = f"expires in {timedelta(seconds=found.expires_in_ms // 1000)} if idle"
    console.print(f"{found.value_bytes} bytes, {_number(found.memory_bytes)} in Redis with its key; {expiry}")


def show_stats(console: Console, tenant: str, found: Stats) -> None:
    """Print a tenant in numbers."""
    rows: dict[str, Any] = {
        "rings": found.rings,
        "rings looked at": found.looked_at,
        "members": found.members,
        "entries": found.entries,
        **{f"entries {label}": number for label, number in found.ages.items()},
        "bytes of Avro": found.avro_bytes,
        "bytes of entries": found.frame_bytes,
        "Avro / entries": None if found.ratio is None else f"{found.ratio:.2f}",
        "value bytes": found.value_bytes,
        "bytes in Redis": found.memory_bytes,
        "bytes in Redis a member": _share(found.memory_bytes, found.members),
        "emptied rings, not freed": found.emptied,
        "their value bytes": found.emptied_bytes,
        "foreign rings": found.foreign,
        "misplaced keys": found.misplaced,
        "log rows in the outbox": found.outbox_rows,
        **{f"unreadable: {fault}": number for fault, number in found.faults.items()},
        **_usages("format", found.formats),
        **_usages("layout", found.layouts),
        **_usages("codec", found.codecs),
        **_usages("dictionary", found.dictionaries),
    }
    for name, dictionary in found.dictionaries.items():
        since = "" if dictionary.since_ms is None else f" since {moment(dictionary.since_ms)}"
        role = "current" if dictionary.is_current else "not current"
        rows[f"dictionary {name} itself"] = f"{dictionary.dictionary_bytes:,} bytes; {role}{since}"
    show_figures(console, f"rings of tenant {tenant}", rows)


def show_figures(console: Console, title: str, figures: Mapping[str, Any]) -> None:
    """Print named figures, one a line."""
    table = Table(title=title, show_header=False, min_width=len(title))
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), _printable(_number(value)))
    console.print(table)


def moment(at_ms: int) -> str:
    """Return a time as people and programs read it."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")
    except OverflowError:
        return f"{at_ms} ms"


def _usages(kind: str, usages: Mapping[str, Usage]) -> dict[str, str]:
    return {
        f"{kind} {name or '(none)'}": f"{usage.entries:,} entries, {usage.frame_bytes:,} bytes"
        for name, usage in usages.items()
    }


def _cells(frame: Frame) -> list[str]:
    if frame.entry is None:
        return ["", str(frame.error), *[""] * 8]
    entry: Entry = frame.entry
    actions = entry.layout.actions
    eligible = [name for bit, name in enumerate(actions) if entry.eligible >> bit & 1]
    return [
        *(str(entry.sequence), moment(entry.at_ms), actions[entry.action], " ".join(eligible)),
        *(entry.mask_key, entry.cycle_id, entry.notification_id, entry.model),
        *(entry.layout.fingerprint.hex(), frame.dictionary or "none"),
    ]


def _share(total: int | None, number: int) -> int | None:
    return None if total is None or not number else round(total / number)


def _number(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "none"
    return str(value) or "none"


def _printable(text: str) -> str:
    # The text may be a caller's: it must not reach the terminal as control sequences.
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
