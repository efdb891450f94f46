"""One good deployment, validated once; the tests of this folder read its report."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.settings import Settings
from tests.validation.tables import settings_in, shop, write
from validation.gate import validate
from validation.report import GateReport


@pytest.fixture(scope="session")
def good_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings under which the good deployment lies."""
    folder: Path = tmp_path_factory.mktemp("good")
    settings = settings_in(folder)
    write(settings)
    return settings


@pytest.fixture(scope="session")
def good_report(good_settings: Settings) -> GateReport:
    """The report on the good deployment."""
    return validate(shop(), good_settings)
