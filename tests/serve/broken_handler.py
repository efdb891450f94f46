"""A handler whose model cannot be opened."""

from typing import NoReturn


class BrokenHandler:
    def initialize(self, context: object) -> NoReturn:
        raise OSError("model.safetensors is cut off after 12 bytes")

    def handle(self, data: list[bytes], context: object) -> list[bytes]:
        return data
