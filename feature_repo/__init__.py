"""Feast in this project: what is known of a member, defined once for training and for serving."""
