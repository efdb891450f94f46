"""Plugins of Feast's own extension points, of use without the rest of Pacer: they know Feast and nothing here."""
