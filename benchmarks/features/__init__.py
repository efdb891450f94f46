"""What Feast's plugins cost beside Feast's own stores and beside the bare engine, in one run."""
