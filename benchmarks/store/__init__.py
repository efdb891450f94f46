"""Rings beside what teams use instead: bytes, writes and speed on one redis-server, on the same real entries."""
