"""Every error Pacer raises on purpose.

PacerError
├── SpecError           the spec file is wrong (also a ValueError)
├── LogError            a decision log or feature table breaks its contract (also a ValueError)
├── RequestError        a REST body or one of its items is wrong (also a ValueError)
├── ArtifactError       a model artifact is missing, torn or made for another spec
├── GateError           validation refused the data
├── StoreError          a sequence store or feature store operation failed
│   ├── StoreUnavailable    the server did not answer; nothing was written
│   ├── OutcomeUnknown      the connection broke after an append was sent
│   │   └── NotReplicated       too few replicas are known to have an append
│   └── FrameError          one stored value is not a whole, genuine entry
└── ServerError         a server that Pacer starts did not come up, or went away
"""


class PacerError(Exception):
    """Base of all errors that name a thing, a value and the way out."""


class SpecError(PacerError, ValueError):
    """The spec breaks its contract. The message names the file, the field and the value."""


class LogError(PacerError, ValueError):
    """A decision log or a feature table breaks its contract as a whole."""


class RequestError(PacerError, ValueError):
    """A request is wrong. ``field`` names the offending part, e.g. ``decisions[3].prompt.click``."""

    def __init__(self, field: str, reason: str) -> None:
        # A caller's own words may hold lone surrogates, which no reply can.
        field, reason = (text.encode("utf-8", "backslashreplace").decode() for text in (field, reason))
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class ArtifactError(PacerError):
    """A model artifact is missing a file, fails its hashes, or was made for another spec."""


class GateError(PacerError):
    """Validation refused the data; the message names the expectations that failed and where."""


class StoreError(PacerError):
    """A sequence-store or feature-store operation failed."""


class StoreUnavailable(StoreError):
    """The server did not answer; nothing was written."""


class OutcomeUnknown(StoreError):
    """The connection broke after an append was sent; read back before asking again."""


class NotReplicated(OutcomeUnknown):
    """Too few replicas are known to have an append. Reading it back proves nothing: it may be on its master alone."""


class FrameError(StoreError):
    """One stored value is not a whole, genuine entry of this member."""


class ServerError(PacerError):
    """A server that Pacer starts did not come up, or went away."""
