"""Own data: the feature views and the service of every deployed spec that brings its own tables."""

from contracts.settings import load_settings
from feature_repo.catalog import BUILT_IN
from feature_repo.own_tables import own_definitions

# Feast takes what it finds among the names of this module.
globals().update(
    {f"{type(item).__name__}_{item.name}": item for item in own_definitions(load_settings(), taken=BUILT_IN)}
)
