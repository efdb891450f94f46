"""What crosses between rooms: the spec, the decision log, requests and responses, settings, errors."""
