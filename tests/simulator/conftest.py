"""What the simulator's tests share."""

from pathlib import Path

import pytest

from contracts.spec import Spec, load_spec


@pytest.fixture(scope="session")
def spec() -> Spec:
    return load_spec(Path(__file__).parents[2] / "specs" / "notification.yaml")
