"""One public control task, learned from one log by our Decision Transformer and by d3rlpy's: what each earns."""
