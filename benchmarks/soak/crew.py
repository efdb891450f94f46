"""Many processes that do one thing at once, watched: one that dies without a result ends the scenario."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier, Event
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from benchmarks.soak.scenario import SoakError

_POLL_S = 0.02

# A fork of this process would copy its threads' locks; a new interpreter each would take most of the time.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["benchmarks.soak.persistent", "benchmarks.soak.writers", "benchmarks.soak.damage"])

Result = TypeVar("Result")


@dataclass(frozen=True)
class Signals:
    """What the processes of a crew and their leader tell one another.

    Attributes
    ----------
    ready
        All wait for one another here before they begin.
    up
        The server can be reached; whoever could not reach it waits for this.
    calm
        From now on nothing is done to the rings but appends.
    stop
        Finish what is begun, and return.
    """

    ready: Barrier
    up: Event
    calm: Event
    stop: Event
    _done: Synchronized[int]

    def tell(self, number: int = 1) -> None:
        """Add to what the crew has done."""
        with self._done.get_lock():
            self._done.value += number

    @property
    def done(self) -> int:
        """What the crew has done so far."""
        return self._done.value


class Crew(Generic[Result]):
    """``count`` processes that each call ``work(number, signals, *arguments)``. Use it in a ``with`` statement.

    Parameters
    ----------
    work
        A function of a module; what it returns is its result.
    count
        How many processes.
    arguments
        Given to each.
    """

    def __init__(self, work: Callable[..., Result], count: int, *arguments: Any) -> None:
        up, calm, stop = (_context.Event() for _ in range(3))
        self.signals = Signals(_context.Barrier(count), up, calm, stop, _context.Value("Q", 0))
        self.signals.up.set()
        self._pipes: dict[Connection, int] = {}
        self._results: dict[int, Result] = {}
        self._processes = []
        for number in range(count):
            ours, theirs = _context.Pipe(duplex=False)
            process = _context.Process(target=_run, args=(theirs, work, number, self.signals, *arguments), daemon=True)
            self._processes.append((process, theirs))
            self._pipes[ours] = number

    def __enter__(self) -> Self:
        for process, theirs in self._processes:
            process.start()
            theirs.close()  # so that its death is noticed here
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in self._processes:
            process.kill()
        for process, _ in self._processes:
            process.join()

    def until(self, done: int, meanwhile: Callable[[int], None] | None = None) -> None:
        """Return once the crew has done so much, or has ended; ``meanwhile`` is told now and then how much it has.

        Raises
        ------
        SoakError
            A process died, or its work raised an error.
        """
        while self.signals.done < done and self._pipes:
            self._collect(meanwhile)

    def results(self, meanwhile: Callable[[int], None] | None = None) -> list[Result]:
        """Return the results of all processes, in their order, once all have ended. Raises as ``until``."""
        while self._pipes:
            self._collect(meanwhile)
        return [result for _, result in sorted(self._results.items(), key=lambda item: item[0])]

    def _collect(self, meanwhile: Callable[[int], None] | None) -> None:
        ended: Sequence[Any] = wait(list(self._pipes), _POLL_S)
        for pipe in ended:
            number = self._pipes.pop(pipe)
            try:
                worked, result = pipe.recv()
            except EOFError:
                raise SoakError(f"process {number} of {len(self._processes)} died; its work is not known") from None
            if not worked:
                raise SoakError(f"process {number} of {len(self._processes)} failed: {result}")
            self._results[number] = result
            pipe.close()
        if meanwhile is not None:
            meanwhile(self.signals.done)


def _run(pipe: Connection, work: Callable[..., Any], number: int, signals: Signals, *arguments: Any) -> None:
    # An interrupt from the keyboard goes to every process; the leader alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_leader, daemon=True).start()
    try:
        pipe.send((True, work(number, signals, *arguments)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


def _end_with_leader() -> None:
    """End this process when its leader is gone, however that came about: nobody waits for its work any more."""
    leader = multiprocessing.parent_process()
    if leader is not None:
        wait([leader.sentinel])
    os._exit(1)
