"""Soak scenarios of the ring store: load, crashes, damage and maintenance at length, each held to laws and counted."""
