"""The control benchmark: a log of every quality, the same for both models, and figures that are those of the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.control import __main__ as control
from benchmarks.control.task import ErringController, make_log

pytestmark = pytest.mark.unit


def test_the_controller_errs_as_often_as_it_is_told() -> None:
    states = np.zeros((4_000, 6), np.float32)
    states[:, 5] = np.tile([1.0, -1.0], 2_000)
    controller = ErringController(np.full(4_000, 0.3, np.float32))
    actions = controller(states, np.ones((4_000, 3), np.bool_), np.random.default_rng(0))
    assert set(actions.tolist()) == {0, 2}
    assert abs(float((actions != np.tile([2, 0], 2_000)).mean()) - 0.3) < 0.03


def test_the_log_holds_good_and_failed_attempts() -> None:
    log = make_log(8)
    assert log.returns[0, 0] > -250.0
    assert log.returns[-1, 0] == -500.0
    assert not log.terminated[-1]


def test_the_spread_is_that_of_the_seeds_means() -> None:
    row = control.spread([[1.0, 3.0], [4.0, 6.0]])
    assert row == {"mean": 3.5, "sd": pytest.approx(np.sqrt(4.5)), "worst": 2.0, "best": 5.0}
    assert np.isnan(control.spread([[1.0]])["sd"])


def test_both_get_the_same_and_the_last_line_holds_the_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = tmp_path / "peer.py"
    script.write_text(
        "import json, sys\n"
        "asked = json.load(open(sys.argv[2]))\n"
        "print('words')\n"
        "print(json.dumps({'returns': [[-float(asked['steps'])] * asked['episodes'] for _ in asked['seeds']]}))\n"
    )
    monkeypatch.setattr(control, "PEER", script)
    monkeypatch.setattr(control, "peers_python", lambda: "python3")
    small = ["--seeds", "2", "--log-episodes", "4", "--test-episodes", "2", "--epochs", "1"]
    assert control.main(small) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["return"]["d3rlpy"]["mean"] == -figures["optimiser_steps"]
    assert figures["plan"]["seeds"] == 2
    for name in ("pacer", "pacer_by_level"):
        assert -500.0 <= figures["return"][name]["worst"] <= figures["return"][name]["best"] < 0.0


def test_a_peer_that_fails_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text("raise SystemExit(3)")
    monkeypatch.setattr(control, "PEER", script)
    monkeypatch.setattr(control, "peers_python", lambda: "python3")
    assert control.main(["--seeds", "1", "--log-episodes", "2", "--test-episodes", "1", "--epochs", "1"]) == 1
