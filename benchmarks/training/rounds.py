"""The parent's side: contenders in processes of their own, measured by turns: a drift of the machine hits all alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from rich.console import Console

from benchmarks.peers import peers_python
from benchmarks.training.data import Problem
from contracts.errors import ServerError
from contracts.settings import CHECKOUT

OURS: Final = "pacer"
MODULES: Final = {
    OURS: "benchmarks.training.pacer",
    "huggingface": "benchmarks.training.peer_huggingface",
    "d3rlpy": "benchmarks.training.peer_d3rlpy",
}


@dataclass(frozen=True)
class Task:
    """One figure of every contender."""

    task: str  # a method of Contender
    batch: int
    precision: str
    seconds: float


class Process:
    """A contender's process. Ends with the ``with`` block."""

    def __init__(self, name: str, log: Path, problem: Problem, threads: int) -> None:
        python = Path(sys.executable) if name == OURS else peers_python()
        self._name = name
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 -- closed with the process
        self._process = subprocess.Popen(
            [python, "-m", MODULES[name], log, json.dumps(asdict(problem))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            cwd=CHECKOUT,
            # Threads wait as PyTorch's do where nobody set anything: only one contender works at a time.
            env={
                **{name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"},
                "PYTHONPATH": str(CHECKOUT),
                "OMP_NUM_THREADS": str(threads),
            },
            text=True,
        )

    def __enter__(self) -> Process:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._pipe(self._process.stdin).close()
        self._process.terminate()
        self._process.wait()
        self._said.close()

    def measure(self, task: Task) -> float:
        """Return the contender's rate. Raises ServerError if its process ends."""
        stdin, stdout = self._pipe(self._process.stdin), self._pipe(self._process.stdout)
        print(json.dumps(asdict(task)), file=stdin, flush=True)
        reply = stdout.readline()
        if not reply:
            self._said.seek(0)
            last = "\n".join(self._said.read().splitlines()[-20:])
            raise ServerError(f"{self._name} ended while it was asked for {task}:\n{last}")
        return float(json.loads(reply))

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def measure(
    names: Sequence[str],
    tasks: Mapping[str, Task],
    log: Path,
    problem: Problem,
    rounds: int,
    threads: int,
    console: Console,
) -> dict[str, dict[str, float]]:
    """Measure every task of every contender ``rounds`` times, by turns: task -> contender -> median rate."""
    rates: dict[str, dict[str, list[float]]] = {task: {name: [] for name in names} for task in tasks}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(Process(name, log, problem, threads)) for name in names}
        for turn in range(rounds):
            for title, task in tasks.items():
                for name, process in processes.items():
                    with console.status(f"round {turn + 1} of {rounds}: {name}, {title}"):
                        rates[title][name].append(process.measure(task))
    return {
        task: {name: statistics.median(values) for name, values in by_name.items()} for task, by_name in rates.items()
    }
