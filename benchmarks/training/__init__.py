"""Training, inference and trajectory building beside what one would take off the shelf, in one run."""
