"""``python -m sequence_store``: look into the rings of a tenant, without changing them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table

from contracts.errors import PacerError
from contracts.settings import find_redis_url, load_settings
from sequence_store.entry import Entry
from sequence_store.inspection import Inspection, Stats, inspect, stats
from sequence_store.wire import connect

_TIMEOUT_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, or 1 with the error on stderr."""
    parser = argparse.ArgumentParser(prog="python -m sequence_store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("inspect", help="show every entry of one member's ring")
    one.add_argument("member", help="the member's id")
    everything = commands.add_parser("stats", help="count rings, entries and bytes of a tenant")
    for command in (one, everything):
        command.add_argument("--tenant", required=True, help="name of the deployment, as in its spec")
        command.add_argument("--redis", metavar="URL", help="default: REDIS_URL, or the server that `make up` started")
    options = parser.parse_args(arguments)
    console = Console(markup=False, highlight=False)
    try:
        client = connect(options.redis or find_redis_url(load_settings()), _TIMEOUT_S, _TIMEOUT_S)
        with client:
            if options.command == "inspect":
                _show_ring(console, options.member, inspect(client, options.tenant, options.member))
            else:
                _show_stats(console, options.tenant, stats(client, options.tenant))
    except (PacerError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _show_ring(console: Console, member_id: str, found: Inspection) -> None:
    if not found.slots:
        console.print(f"member {member_id!r} has no ring")
        return
    table = Table(title=f"ring of member {_printable(member_id)}")
    for name in ("sequence", "at (UTC)", "action", "eligible", "mask key", "cycle", "notification", "model", "bytes"):
        table.add_column(name)
    for slot in found.slots:
        cells = [str(slot.error), *[""] * 6] if slot.entry is None else _cells(slot.entry)
        table.add_row(str(slot.sequence), *map(_printable, cells), str(slot.stored_bytes))
    console.print(table)
    expires = timedelta(milliseconds=found.expires_in_ms)
    console.print(
        f"{found.version.count} entries appended; {found.memory_bytes} bytes in Redis; expires in {expires} if idle"
    )


def _cells(entry: Entry) -> list[str]:
    actions = entry.layout.actions
    eligible = [name for bit, name in enumerate(actions) if entry.eligible >> bit & 1]
    return [
        _moment(entry.at_ms),
        actions[entry.action],
        " ".join(eligible),
        *(entry.mask_key, entry.cycle_id, entry.notification_id, entry.model),
    ]


def _printable(text: str) -> str:
    # The text is a caller's: it must not reach the terminal as control sequences.
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _moment(at_ms: int) -> str:
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")
    except OverflowError:
        return f"{at_ms} ms"


def _show_stats(console: Console, tenant: str, found: Stats) -> None:
    table = Table(title=f"rings of tenant {tenant}", show_header=False)
    rows = {
        "members": found.members,
        "entries": found.entries,
        "value bytes": found.value_bytes,
        "bytes in Redis": found.memory_bytes,
        "bytes a member": round(found.memory_bytes / found.members) if found.members else 0,
        "log rows in the outbox": found.outbox_rows,
        **{f"entries under layout {fingerprint}": n for fingerprint, n in found.layouts.items()},
        **{f"unreadable: {fault}": n for fault, n in found.faults.items()},
    }
    for name, value in rows.items():
        table.add_row(name, f"{value:,}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
