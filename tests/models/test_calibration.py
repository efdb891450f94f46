"""Calibration against counting by hand; crossing quantiles are found although the model makes none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.calibration import calibrate, crossing_rate

pytestmark = pytest.mark.unit

LEVELS = (0.1, 0.5, 0.9)


def test_crossings_are_found() -> None:
    quantiles = np.array([[[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]], [[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]], np.float32)
    assert crossing_rate(quantiles).tolist() == [0.5, 0.5]


def test_deciles_and_bands_are_counted_right() -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=4000).astype(np.float32) * 3.0
    returns = (centre + rng.normal(size=4000)).astype(np.float32)[:, None]
    quantiles = (centre[:, None] + np.array([-1.2816, 0.0, 1.2816], np.float32))[:, None]
    members = np.repeat(np.arange(400), 10)
    found = calibrate(quantiles, returns, LEVELS, members)[0]
    assert [decile.decisions for decile in found.deciles] == [400] * 10
    order = np.argsort(centre)
    for k, decile in enumerate(found.deciles):
        rows = order[400 * k : 400 * (k + 1)]
        assert decile.predicted == pytest.approx(centre[rows].mean(), abs=1e-4)
        assert decile.realised.value == pytest.approx(returns[rows, 0].mean(), abs=1e-4)
        assert decile.realised_median == pytest.approx(np.median(returns[rows, 0]), abs=1e-4)
        assert decile.below.value == pytest.approx((returns[rows, 0] <= centre[rows]).mean())
        assert decile.below.interval is not None
        assert decile.below.interval[0] < 0.56
        assert decile.below.interval[1] > 0.44
    assert [band.expected for band in found.bands] == pytest.approx([0.1, 0.4, 0.4, 0.1])
    assert sum(band.observed.value or 0.0 for band in found.bands) == pytest.approx(1.0)
    for band in found.bands:
        assert band.observed.value == pytest.approx(band.expected, abs=0.03)


def test_a_return_at_a_quantile_lies_below_it_as_in_coverage() -> None:
    quantiles = np.array([[[0.0, 1.0, 2.0]]], np.float32)
    bands = calibrate(quantiles, np.array([[1.0]], np.float32), LEVELS, np.zeros(1, np.int64))[0].bands
    assert [band.observed.value for band in bands] == [0.0, 1.0, 0.0, 0.0]


def test_constant_predictions_and_returns_are_one_decile_and_strict_json() -> None:
    quantiles, returns = np.ones((30, 1, 3), np.float32), np.ones((30, 1), np.float32)
    found = calibrate(quantiles, returns, LEVELS, np.arange(30) // 10)[0]
    assert [decile.decisions for decile in found.deciles] == [30]
    assert found.deciles[0].below.value == 1.0
    json.dumps(found.to_json(), allow_nan=False)
