"""The Decision Transformer and what it is trained from: PyTorch, and neither Redis, Feast nor TorchServe."""
