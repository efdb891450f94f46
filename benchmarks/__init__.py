"""The figures that the documents quote, each with the one command that makes it."""
