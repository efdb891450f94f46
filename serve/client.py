"""A client of the REST API: tokens, time limits, retries, and errors that say what to do."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from contracts.errors import RequestError, ServerError
from contracts.settings import Settings
from serve import process
from serve.key_file import read_keys

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 30.0
"""How long one answer may take."""
RETRIES = 6
"""How often a busy server (503) is asked again; it is asked under the same cycle_id, so nothing is sent twice."""
BACKOFF_S = 0.1
"""Longest pause before the first retry; it doubles each time; each is drawn at random from its upper half."""

# Another process may renew the token just after this one did.
_TOKEN_ATTEMPTS = 3
_TOKEN_REFUSED = "InvalidKeyException"  # noqa: S105


class Client:
    """A connection pool to one TorchServe; close it, or use it as a context manager. Threads may share it."""

    def __init__(
        self,
        url: str,
        credentials: Path | str,
        *,
        management_url: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
    ) -> None:
        """Prepare a client of the server at ``url``.

        ``credentials`` is TorchServe's key file, read again whenever its token is refused, or a token.
        With ``management_url``, a token that expired is renewed; that takes the key file.
        """
        self._url = url
        self._credentials = credentials
        self._management_url = management_url
        self._retries = retries
        self._timeout_s = timeout_s
        self._token = credentials if isinstance(credentials, str) else None
        self._renewal = threading.Lock()
        # A proxy of the caller's environment has no business between a program and its loopback server.
        self._http = httpx.Client(timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S), trust_env=False)

    @classmethod
    def from_settings(cls, settings: Settings, *, timeout_s: float = TIMEOUT_S, retries: int = RETRIES) -> Self:
        """Return a client of the TorchServe that runs under ``settings.var``. Raises ServerError if none does."""
        record = process.read_record(settings.run_dir, "torchserve")
        if record is None:
            raise ServerError(f"no TorchServe runs under {settings.var}; start one with `make up`")
        return cls(
            record.url,
            Path(record.details["key_file"]),
            management_url=record.details["management_url"],
            timeout_s=timeout_s,
            retries=retries,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def decide(self, tenant: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask ``tenant`` for decisions: ``body`` and the reply are those of the REST API (docs: the OpenAPI document).

        Raises RequestError if the server refuses the body as a whole, and ServerError if it cannot be
        reached, does not answer in time, is still busy after the retries, or has no such tenant. After
        a ServerError the same body may be sent again: a cycle is decided once.
        """
        try:
            content = json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise RequestError("body", f"cannot be written as JSON: {error}") from error
        response = self._ask(tenant, content)
        for attempt in range(self._retries):
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            # Callers that were refused together would come back together.
            time.sleep(random.uniform(0.5, 1.0) * BACKOFF_S * 2**attempt)
            response = self._ask(tenant, content)
        return self._read(tenant, response)

    def _ask(self, tenant: str, content: bytes) -> httpx.Response:
        """Post once; with a token that is refused, get a newer one and post again."""
        token = self._known_token()
        response = self._post(tenant, content, token)
        for _ in range(_TOKEN_ATTEMPTS):
            if not _token_refused(response) or isinstance(self._credentials, str):
                break
            token = self._newer_token(self._credentials, token)
            response = self._post(tenant, content, token)
        return response

    def _post(self, tenant: str, content: bytes, token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return self._send("POST", f"{self._url}/predictions/{tenant}", content=content, headers=headers)

    def _send(self, method: str, url: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, url, **options)
        except httpx.ConnectError as error:
            raise ServerError(f"nothing answers at {self._url} ({error}); start TorchServe with `make up`") from error
        except httpx.TimeoutException as error:
            raise ServerError(f"{self._url} gave no answer in {self._timeout_s:g} s; ask again") from error
        except httpx.HTTPError as error:
            raise ServerError(f"the connection to {self._url} broke ({error}); ask again") from error

    def _known_token(self) -> str:
        if self._token is None:
            assert isinstance(self._credentials, Path)
            self._token = read_keys(self._credentials).inference
        return self._token

    def _newer_token(self, key_file: Path, refused: str) -> str:
        """Return the key file's token if it is another than the one refused, else have it renewed.

        Renewing ends the token before, so the threads of one client take turns.
        """
        with self._renewal:
            keys = read_keys(key_file)
            if keys.inference == refused and self._management_url is not None:
                headers = {"Authorization": f"Bearer {keys.api}"}
                self._send("GET", f"{self._management_url}/token", params={"type": "inference"}, headers=headers)
                keys = read_keys(key_file)
            self._token = keys.inference
            return self._token

    def _read(self, tenant: str, response: httpx.Response) -> Mapping[str, Any]:
        """Return the body of a success; raise what fits of anything else."""
        document = _json_object(response)
        status = response.status_code
        if response.is_success and document is not None:
            return document
        field, reason = _explain(document or {}, response.text)
        if _token_refused(response):
            raise ServerError(f"{self._url} refuses the token of {self._credentials}: {reason}")
        if status == httpx.codes.NOT_FOUND:
            raise ServerError(f"{self._url} has no tenant {tenant!r} ({reason}); `make deploy` adds it")
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise RequestError("body", "larger than the server takes; send fewer decisions at once")
        if response.is_client_error:
            raise RequestError(field, reason)
        raise ServerError(f"{self._url} answered {status} for tenant {tenant!r}: {field}: {reason}")


def _explain(document: Mapping[str, Any], text: str) -> tuple[str, str]:
    """Return field and reason of Pacer's error, else TorchServe's message, else the text as it came."""
    error = document.get("error")
    if isinstance(error, dict):
        field = str(error.get("field", "body"))
        return field, str(error.get("reason", text)).removeprefix(f"{field}: ")
    return "body", str(document.get("message") or text[:500])


def _token_refused(response: httpx.Response) -> bool:
    # TorchServe says 400 to a token that is missing, wrong or expired, and names its exception.
    return response.is_client_error and (_json_object(response) or {}).get("type") == _TOKEN_REFUSED


def _json_object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        document = response.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
