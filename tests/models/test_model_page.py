"""The code of docs/model.md runs as it is written, and its prompts do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from contracts.settings import CHECKOUT
from contracts.spec import Model, Training
from models.config import FitConfig

pytestmark = pytest.mark.unit

PAGE = (CHECKOUT / "docs" / "model.md").read_text(encoding="utf-8")


def test_the_page_runs_and_its_prompts_set_the_trade_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/model.md", "exec"), names)  # noqa: S102
    said = re.findall(r"returns \[ *(\S+) +(\S+)\]", capsys.readouterr().out)
    gains, costs = np.array(said, np.float64).T
    # Asking for more gain earns more of it; asking for less cost pays less.
    assert gains[0] > gains[1] > gains[2]
    assert costs[0] <= costs[1] + 2.0
    assert costs[1] < costs[2]
    # Known optima of 20 steps: all effort where there is need earns 4 * E[max(need, 0)] at 19 of them; none costs 0.
    assert gains[0] > 0.6 * 19 * 4 * 0.4
    assert costs[2] > -0.35 * 20 * 0.5 * 4
    loaded, again = (
        policy.act(policy.new_history(), [1.0, 0.0], None, {"gain": 0.5, "cost": 0.5}).probabilities
        for policy in (models.Policy.load(Path("my-policy")), names["again"])
    )
    np.testing.assert_array_equal(loaded, again)


def test_the_page_states_the_defaults_that_hold() -> None:
    config, model, training = FitConfig(), Model(), Training()
    assert f"| `horizon` | {config.horizon} |" in PAGE
    assert f"| `discount` | {config.discount} |" in PAGE
    assert f"| `quantiles` | {' '.join(f'{level:g}'.lstrip('0') for level in config.quantiles)} |" in PAGE
    assert f"| `context_length` | {config.context_length} |" in PAGE
    assert f"| {model.width}, {model.layers}, {model.heads}, {model.dropout:g} |" in PAGE
    assert f"| `model.action_input` | `{model.action_input}` |" in PAGE
    assert f"| `model.earlier_returns` | `{model.earlier_returns}` |" in PAGE
    assert f"| `training.rtg_weight` | {training.rtg_weight} |" in PAGE
    assert f"| `training.predicted_returns` | {training.predicted_returns} |" in PAGE


def test_the_page_names_what_the_library_has() -> None:
    for names in re.findall(r"from models import ([^\n]+)", PAGE):
        assert set(names.split(", ")) <= set(models.__all__)
