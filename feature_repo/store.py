"""Feast's FeatureStore, opened on the state folder in use, and its errors in Pacer's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feast import FeatureStore
from feast.repo_config import load_repo_config
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from contracts.errors import PacerError, StoreError, StoreUnavailable
from contracts.settings import Settings
from feature_repo.online_source import UNAVAILABLE
from feature_repo.online_store import PacerRedisOnlineStore

REPO = Path(__file__).resolve().parent
_LOCAL_REGISTRY = "feature_repo.registry_store.LocalRegistryStore"


def open_store(settings: Settings) -> FeatureStore:
    """Open the feature store that feature_store.yaml describes, with the registry and the Redis of ``settings``.

    Connects to nothing. Raises StoreError where nothing was applied yet, or the registry can't be read.
    """
    config = load_repo_config(REPO, REPO / "feature_store.yaml")
    registry = config.registry_config
    if isinstance(registry, dict) and registry.get("registry_store_type") == _LOCAL_REGISTRY:
        path = settings.var / str(registry["path"])
        if not path.exists():
            raise StoreError(f"{path}: no feature registry; run `make apply` (or `feast apply` in feature_repo/)")
        registry["path"] = str(path)
    store = FeatureStore(config=config)
    try:
        store.refresh_registry()  # type: ignore[no-untyped-call]
    except DecodeError as error:
        raise StoreError(f"{registry}: not a feature registry ({error}); remove it and run `make apply`") from None
    online = store.provider.online_store
    if isinstance(online, PacerRedisOnlineStore):
        online.settings = settings
    return store


@contextmanager
def feast_errors(doing: str) -> Iterator[None]:
    """Turn what Feast and Redis raise while ``doing`` something into StoreUnavailable or StoreError."""
    try:
        yield
    except PacerError:
        raise
    except UNAVAILABLE as error:
        raise StoreUnavailable(f"{doing}: Redis does not answer ({error}); start it with `make up`") from error
    except Exception as error:
        raise StoreError(f"{doing}: Feast says {type(error).__name__}: {error}") from error
