"""Feast's stores and this project's, side by side."""
