"""Bring the servers up to stay: Redis, and TorchServe with every tenant that has an archive."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from contracts.settings import Settings
from contracts.spec import load_spec
from serve.archive import archive_version, deployed_archives
from serve.redis_server import start_redis
from serve.torchserve import serve_tenants


def bring_up(spec_path: Path, settings: Settings, console: Console) -> bool:
    """Start the servers; return False, having done nothing, if the spec's tenant has no archive yet."""
    tenant = load_spec(spec_path).name
    archive = settings.workspace(tenant).archives / f"{tenant}.mar"
    if not archive.exists():
        return False
    archive_version(archive)  # a torn one is an error here, not a reason to train anew
    archives = deployed_archives(settings)
    redis = start_redis(settings, die_with_parent=False)
    console.print(f"Redis {'started' if redis.started else 'is up'} at {redis.url}")
    for url in serve_tenants(settings, archives, die_with_parent=False):
        console.print(f"ready at {url}")
    return True
