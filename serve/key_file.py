"""TorchServe's key file: the tokens that its APIs ask for."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import ServerError

_ATTEMPTS = 10
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Keys:
    """What a key file holds, as far as Pacer uses it."""

    inference: str
    """Bearer token of ``/predictions``; it expires (TorchServeConfig.token_expiration_min)."""
    api: str
    """Bearer token with which new tokens are asked for; it holds as long as the server runs."""


def read_keys(path: Path) -> Keys:
    """Read a key file. Raises ServerError if there is none, or it is no key file.

    TorchServe writes it in place, so that a reader may meet half of it: it then looks again.
    """
    for _ in range(_ATTEMPTS):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return Keys(inference=str(document["inference"]["key"]), api=str(document["API"]["key"]))
        except OSError as error:
            raise ServerError(
                f"key file {path}: {error.strerror}; `make up` starts the server that writes it"
            ) from error
        except (ValueError, KeyError, TypeError):
            time.sleep(_PAUSE_S)
    raise ServerError(f"{path} is no key file; restart TorchServe, which writes it, with `make up`")
