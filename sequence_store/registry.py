"""The layouts registered on Redis under their fingerprints, and those of them that this process has met."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from redis.exceptions import ResponseError

from sequence_store.keys import Keys
from sequence_store.layout import Layout
from sequence_store.wire import Command, Wire


class Registry:
    """Layouts by fingerprint. A layout never changes, so what is known stays known."""

    def __init__(self, wire: Wire, keys: Keys, known: Collection[Layout] = ()) -> None:
        self._wire = wire
        self._keys = keys
        self._layouts: dict[bytes, Layout | None] = {layout.fingerprint: layout for layout in known}

    def register_command(self, layout: Layout) -> Command:
        """Return the command that registers ``layout``."""
        return ("HSETNX", self._keys.layouts, layout.fingerprint.hex(), layout.to_json())

    def is_registered_command(self, layout: Layout) -> Command:
        """Return the command that replies 0 if ``layout`` is not registered."""
        return ("HEXISTS", self._keys.layouts, layout.fingerprint.hex())

    def resolve(self, fingerprints: Collection[bytes]) -> Mapping[bytes, Layout | None]:
        """Return the layouts known by now; a round trip is made only if one of ``fingerprints`` is new.

        None stands for a layout that is registered but not understood, such as a later version's. One that is not
        registered is left out. Raises StoreUnavailable.
        """
        missing = [fingerprint for fingerprint in fingerprints if fingerprint not in self._layouts]
        if missing:
            command = ("HMGET", self._keys.layouts, *(fingerprint.hex() for fingerprint in missing))
            (texts,) = self._wire.exchange([command], writes=False)
            if not isinstance(texts, ResponseError):
                for fingerprint, text in zip(missing, texts, strict=True):
                    if text is not None:
                        self._layouts[fingerprint] = _understand(text, fingerprint)
        return self._layouts


def _understand(text: bytes, fingerprint: bytes) -> Layout | None:
    try:
        layout = Layout.from_json(text)
    except ValueError:
        return None
    return layout if layout.fingerprint == fingerprint else None
