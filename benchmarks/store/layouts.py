"""The layouts that are measured, by name, and the codecs they are opened with.

Rings, whose codec is the point of each:

- ``ring``: as shipped, with the spec's storage types and a dictionary;
- ``ring_lossless``: float32 groups, counters float64, and a dictionary of its own;
- ``raw_avro_ring``: float32 groups, Avro as it is.

Peers with our codec, the main figures, have the storage types and the dictionary of ``ring``; and with their natural
one:

- ``stream``: a frame of the ring, byte for byte, in one field; or a field for every text, number and float32 group.
- ``list``: a frame of the ring, byte for byte; or the JSON text of an entry.
- ``whole_record``: an Avro array of all entries, compressed together; or the same in float32 with the dictionary of
  ``ring_lossless``.
- ``whole_record_json``: JSON of all entries, scaled values as their codes, compressed together; or plain JSON.
- ``feast_arrays``: frames of the ring, byte for byte, in one Array(Bytes) feature; or an array feature for every
  float32 group, one for the numbers, and one for each text.

The dictionaries are trained on some of the store's own entries, drawn at random (`train-dictionary` does the same).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.store.decisions import Decisions, unscaled
from benchmarks.store.elements import Fields, Frames, JsonTexts, List, Stream
from benchmarks.store.feast_arrays import FeastArrays, FrameArray, GroupArrays
from benchmarks.store.peers import Open
from benchmarks.store.records import AvroArray, JsonArray, WholeRecord
from benchmarks.store.rings import RawRings, Rings
from sequence_store import Layout, avro
from sequence_store.codec import Codec, train_dictionary

RINGS: Final = ("ring", "ring_lossless", "raw_avro_ring")
PEERS: Final = ("stream", "list", "whole_record", "whole_record_json", "feast_arrays")
SAFE_PEERS: Final = ("stream", "list", "whole_record")
"""Those whose appends are compare-and-set."""


@dataclass(frozen=True)
class Codecs:
    """What entries are encoded with, and the entries a member that are kept."""

    shipped: Codec
    lossless: Codec
    raw: Codec
    capacity: int

    @classmethod
    def of(cls, decisions: Decisions) -> Codecs:
        """Train the dictionaries."""
        lossless = unscaled(decisions.layout, exact_counters=True)
        return cls(
            _trained(decisions, decisions.layout),
            _trained(decisions, lossless),
            Codec(unscaled(decisions.layout, exact_counters=False)),
            decisions.runs.shape[1],
        )

    def ours(self) -> dict[str, Open]:
        """Return how every layout is opened with our codec."""
        shipped, capacity = self.shipped, self.capacity
        frames = Frames(shipped)
        avro_array = AvroArray(shipped.layout, shipped.dictionary)
        json_array = JsonArray(shipped.layout, shipped.dictionary)
        return {
            "ring": lambda client: Rings(client, shipped, capacity),
            "ring_lossless": lambda client: Rings(client, self.lossless, capacity),
            "raw_avro_ring": lambda client: RawRings(client, self.raw, capacity),
            "stream": lambda client: Stream(client, frames, capacity),
            "list": lambda client: List(client, frames, capacity),
            "whole_record": lambda client: WholeRecord(client, avro_array, capacity, watched=True),
            "whole_record_json": lambda client: WholeRecord(client, json_array, capacity, watched=False),
            "feast_arrays": lambda client: FeastArrays(client, FrameArray(frames), capacity),
        }

    def natural(self) -> dict[str, Open]:
        """Return how every peer is opened with its natural codec."""
        capacity, raw = self.capacity, self.raw.layout
        avro_array = AvroArray(self.lossless.layout, self.lossless.dictionary)
        json_array = JsonArray(self.lossless.layout, None)
        return {
            "stream": lambda client: Stream(client, Fields(raw), capacity),
            "list": lambda client: List(client, JsonTexts(self.lossless.layout), capacity),
            "whole_record": lambda client: WholeRecord(client, avro_array, capacity, watched=True),
            "whole_record_json": lambda client: WholeRecord(client, json_array, capacity, watched=False),
            "feast_arrays": lambda client: FeastArrays(client, GroupArrays(self.lossless.layout), capacity),
        }


def _trained(decisions: Decisions, layout: Layout) -> Codec:
    bodies = [avro.encode(decisions.entry(row, 0, layout))[1] for row in decisions.training_rows().tolist()]
    return Codec(layout, train_dictionary(bodies))
