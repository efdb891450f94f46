"""TorchServe's configuration: the limits a deployment may set, and the two files TorchServe reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TorchServeConfig:
    """Limits of one TorchServe; every default is here."""

    workers: int = 1
    """Worker processes a tenant, never more nor fewer; each takes about 500 MB."""
    batch_size: int = 16
    """Most requests that one call of the handler answers together."""
    max_batch_delay_ms: int = 2
    """How long a request waits for company. A lone one waits all of it; TorchServe reads 0 as 100."""
    job_queue_size: int = 100
    """Requests that may wait for a tenant's workers; one more is answered 503."""
    response_timeout_s: int = 60
    """A worker that is silent for longer is replaced."""
    startup_timeout_s: int = 120
    """How long a worker may take to load its model."""
    max_request_bytes: int = 8 << 20
    """A larger body is answered 413. 1,024 decisions with ten candidates each take about 2 MB."""
    max_response_bytes: int = 64 << 20
    """A reply over this ends the worker, so it stands well above what a request can ask for."""
    token_expiration_min: float = 24 * 60
    """How long a token of the key file holds; serve.client renews it."""
    java_heap_mb: int = 1024
    """Most memory of the Java front end, where ``job_queue_size`` requests may wait."""
    torch_threads: int | None = None
    """Threads a worker computes with. None: the cores, shared among all workers."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value <= 0:
                raise ValueError(f"TorchServeConfig.{name} = {value}: must be above 0")

    def threads(self, tenants: int) -> int:
        """Return OMP_NUM_THREADS of each worker where ``tenants`` tenants share the machine."""
        return self.torch_threads or max(1, (os.cpu_count() or 1) // (self.workers * max(1, tenants)))


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one TorchServe."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int
    first_worker: int
    """Names the workers' Unix sockets, in the server's own temporary folder."""


def properties(config: TorchServeConfig, ports: Ports, versions: Mapping[str, str]) -> str:
    """Return ``config.properties`` for the tenants of ``versions`` (tenant name -> archive version).

    Archives come by file name from the model store; no URL is allowed, and no model can be registered
    or removed over REST.
    """
    models = {tenant: {version: _model(config, tenant)} for tenant, version in versions.items()}
    lines = {
        "inference_address": f"http://127.0.0.1:{ports.inference}",
        "management_address": f"http://127.0.0.1:{ports.management}",
        "metrics_address": f"http://127.0.0.1:{ports.metrics}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_inference_port": ports.grpc_inference,
        "grpc_management_address": "127.0.0.1",
        "grpc_management_port": ports.grpc_management,
        "initial_worker_port": ports.first_worker,
        "load_models": ",".join(f"{tenant}={tenant}.mar" for tenant in versions),
        "models": json.dumps(models),
        "default_workers_per_model": config.workers,
        "job_queue_size": config.job_queue_size,
        "default_response_timeout": config.response_timeout_s,
        "default_startup_timeout": config.startup_timeout_s,
        "max_request_size": config.max_request_bytes,
        "max_response_size": config.max_response_bytes,
        # The handler gets the bytes as they came; TorchServe would log a traceback a malformed body.
        "decode_input_request": "false",
        "disable_token_authorization": "false",
        "token_expiration_min": config.token_expiration_min,
        "enable_model_api": "false",
        # A regular expression that matches nothing.
        "allowed_urls": "(?!)",
        "number_of_gpu": 0,
        "metrics_mode": "prometheus",
        # They would start a Python process every minute to measure the host.
        "disable_system_metrics": "true",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _model(config: TorchServeConfig, tenant: str) -> dict[str, object]:
    return {
        "defaultVersion": True,
        "marName": f"{tenant}.mar",
        "minWorkers": config.workers,
        "maxWorkers": config.workers,
        "batchSize": config.batch_size,
        "maxBatchDelay": config.max_batch_delay_ms,
        "responseTimeout": config.response_timeout_s,
        "startupTimeout": config.startup_timeout_s,
    }


# MODEL_LOG carries what the workers print, at INFO whatever its own level: the handler keeps them quiet.
LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders>
    <Console name="console" target="SYSTEM_OUT">
      <PatternLayout pattern="%d{ISO8601} %-5p %t %c - %m%n"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="MODEL_LOG" level="INFO"/>
    <Logger name="io.netty" level="ERROR"/>
    <Logger name="org.apache" level="OFF"/>
    <Root level="WARN">
      <AppenderRef ref="console"/>
    </Root>
  </Loggers>
</Configuration>
"""
