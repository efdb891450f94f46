"""``python -m sequence_store``: look into the rings of a tenant, and keep them in order while they are in use.

Every command but ``inspect`` prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from contracts.errors import PacerError, StoreError
from contracts.settings import find_redis_url, load_settings
from sequence_store import dictionaries, erasure, maintenance, retirement
from sequence_store.codec import DICTIONARY_BYTES
from sequence_store.display import show_figures, show_ring, show_stats
from sequence_store.inspection import inspect, stats
from sequence_store.keys import DEFAULT_BUCKETS, Keys
from sequence_store.layout import Layout
from sequence_store.maintenance import Pace
from sequence_store.plan import Report
from sequence_store.redis_ring import RedisRingStore
from sequence_store.retention import MS_PER_DAY, Retention
from sequence_store.walk import Place
from sequence_store.wire import Wire, connect

_TIMEOUT_S: Final = 10.0
_STOPPED: Final = 130

Options = argparse.Namespace
Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, or 1 with the error on stderr."""
    options = _parser().parse_args(arguments)
    try:
        with connect(_url(options), _TIMEOUT_S, _TIMEOUT_S) as client:
            wire = Wire(client)
            try:
                figures = options.run(options, wire)
            finally:
                wire.close()
    except (PacerError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; a pass goes on from here when it is run again", file=sys.stderr)
        return _STOPPED
    if figures is not None:
        print(json.dumps({"command": options.command, "tenant": options.tenant, **figures}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sequence_store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: Callable[[Options, Wire], Figures | None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("--redis", metavar="URL", help="default: REDIS_URL, or the server that `make up` started")
        command.add_argument("--buckets", type=int, default=DEFAULT_BUCKETS, help="as the tenant's stores have it")
        if name != "erase":
            command.add_argument("--tenant", required=True, help="name of the deployment, as in its spec")
        return command

    command = add("inspect", _inspect, "show every entry of one member's ring")
    command.add_argument("member", help="the member's id")

    command = add("stats", _stats, "count rings, entries and bytes")
    command.add_argument("--sample", type=_positive, metavar="N", help="look at N rings drawn at random only")

    command = add("repush", _repush, "let aged entries leave all rings, and free emptied ones")
    command.add_argument("--ttl-days", type=float, metavar="D", help="default: ring.ttl_days of the tenant's spec")
    command.add_argument("--recode", action="store_true", help="seal older entries under the current dictionary")
    _add_pass_options(command)
    _add_grace(command)

    command = add("empty", _empty, "empty all rings at once")

    command = add("sweep", _sweep, "free what emptied rings take up")
    _add_pass_options(command)

    command = add("train-dictionary", _train, "train a zstd dictionary on the entries, and use it if it is better")
    command.add_argument("--sample", type=_positive, default=dictionaries.SAMPLE, metavar="N", help="entries to draw")
    command.add_argument("--size", type=_positive, default=DICTIONARY_BYTES, metavar="BYTES", help="of the dictionary")
    command.add_argument("--force", action="store_true", help="use it even if it is no better")

    command = add("retire", _retire, "forget dictionaries and layouts that no entry uses any more")
    _add_grace(command)

    command = add("erase", _erase, "erase one member's ring and waiting log rows")
    command.add_argument("member", help="the member's id")
    tenants = command.add_mutually_exclusive_group(required=True)
    tenants.add_argument("--tenant", help="name of the deployment, as in its spec")
    tenants.add_argument("--all-tenants", action="store_true", help="of everything on this Redis")
    text = "name of the field of a log row, a JSON object, that holds the member (%(default)s)"
    command.add_argument("--rows-json-field", default="member_id", metavar="NAME", help=text)
    return parser


def _inspect(options: Options, wire: Wire) -> None:
    """Show one member's ring: every entry, aged ones included, and everything that is wrong."""
    show_ring(_console(), options.member, inspect(wire, _keys(options), options.member))


def _stats(options: Options, wire: Wire) -> Figures:
    """Count what is stored, without changing it."""
    with _progress("rings") as show:
        found = stats(wire, _keys(options), sample=options.sample, on_page=lambda place: show(place, ""))
    show_stats(_console(), options.tenant, found)
    return asdict(found) | {"ratio": found.ratio}


def _repush(options: Options, wire: Wire) -> Figures:
    """Make one pass over all rings, daily: entries older than the time to live leave, and emptied rings are freed.

    Live traffic goes on meanwhile. A pass that was stopped is resumed.
    """
    keys = _keys(options)
    with _progress("repush") as show:
        report = maintenance.repush(
            wire,
            keys,
            _ttl_ms(options),
            recode=options.recode,
            pace=Pace(options.rate),
            restart=options.restart,
            on_page=lambda place, report: show(place, _summary(report)),
        )
    figures = _shown(f"repush of tenant {options.tenant}", asdict(report))
    return figures | {"retirement": _retire(options, wire)} if options.recode else figures


def _empty(options: Options, _: Wire) -> Figures:
    """Empty all rings at once, by a new generation. The storage is freed by sweep, or the next repush."""
    # What the store is to write does not matter here.
    with RedisRingStore(_url(options), options.tenant, Layout((), ("none",)), 1, 1.0, buckets=options.buckets) as store:
        store.empty()
    return _shown(f"tenant {options.tenant}", {"emptied": True, "next": "sweep, which frees the storage"})


def _sweep(options: Options, wire: Wire) -> Figures:
    """Free the rings that were emptied, in one pass; one that was stopped is resumed."""
    with _progress("sweep") as show:
        report = maintenance.sweep(
            wire,
            _keys(options),
            pace=Pace(options.rate),
            restart=options.restart,
            on_page=lambda place, report: show(place, _summary(report)),
        )
    return _shown(f"sweep of tenant {options.tenant}", asdict(report))


def _train(options: Options, wire: Wire) -> Figures:
    """Train a dictionary on entries drawn at random, weekly; measure it on others, and use it if it is better."""
    trained = dictionaries.train(wire, _keys(options), sample=options.sample, size=options.size, force=options.force)
    return _shown(f"dictionary of tenant {options.tenant}", asdict(trained))


def _retire(options: Options, wire: Wire) -> Figures:
    """Forget superseded dictionaries under which the last whole pass saw no entry, and layouts that two did not see."""
    done = retirement.retire(wire, _keys(options), grace_ms=round(options.grace_hours * MS_PER_DAY / 24))
    return _shown(f"superseded dictionaries and unused layouts of tenant {options.tenant}", asdict(done))


def _erase(options: Options, wire: Wire) -> Figures:
    """Erase one member's ring, and the log rows that wait in the outbox.

    Stop asking for decisions about the member first: the next one begins a new ring. Feature tables, the online store
    and drained logs are not touched.
    """
    test = erasure.rows_with(options.rows_json_field, options.member)
    if options.all_tenants:
        done = erasure.erase_everywhere(wire, options.member, test)
    else:
        done = erasure.erase(wire, _keys(options), options.member, test)
    figures = _shown("erased", asdict(done))
    _console().print("A decision about this member from now on begins a new ring.")
    return figures


def _console() -> Console:
    return Console(markup=False, highlight=False)


def _url(options: Options) -> str:
    return options.redis or find_redis_url(load_settings())


def _keys(options: Options) -> Keys:
    return Keys(options.tenant, options.buckets)


def _ttl_ms(options: Options) -> int:
    days = options.ttl_days
    if days is None:
        # Late: only this needs what reads specs.
        from contracts.spec import load_spec

        path = load_settings().workspace(options.tenant).spec
        if not path.exists():
            raise StoreError(f"--ttl-days is not given, and there is no {path} to take ring.ttl_days from: give it")
        days = load_spec(path).ring.ttl_days
    return Retention.of_days(1, days).ttl_ms


def _add_pass_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--rate", type=float, default=maintenance.RATE, metavar="N", help="members a second; 0: no limit (%(default)s)"
    )
    command.add_argument("--restart", action="store_true", help="begin anew, whatever an earlier pass has done")


def _add_grace(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--grace-hours",
        type=float,
        default=retirement.GRACE_MS / MS_PER_DAY * 24,
        metavar="H",
        help="how long after a change of dictionary, or the mark of a layout, a pass must begin (%(default)s)",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


def _shown(title: str, figures: Figures) -> Figures:
    show_figures(_console(), title, figures)
    return figures


def _summary(report: Report) -> str:
    parts = {"rewritten": report.rewritten, "deleted": report.deleted, "freed": report.freed, "left": report.left}
    return ", ".join([f"{report.rings:,} rings", *(f"{number:,} {name}" for name, number in parts.items() if number)])


@contextmanager
def _progress(title: str) -> Iterator[Callable[[Place, str], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)

        def show(place: Place, summary: str) -> None:
            progress.update(
                task,
                description=f"{title} {summary}",
                total=max(place.keys, 1),
                completed=min(place.looked_at, place.keys),
            )

        yield show


if __name__ == "__main__":
    sys.exit(main())
