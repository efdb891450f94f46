"""Serving: the decision engine, the TorchServe handler around it, archives, servers and the client."""
