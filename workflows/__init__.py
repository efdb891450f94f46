"""The stages of a day, in order: the main job that `make run` starts."""
