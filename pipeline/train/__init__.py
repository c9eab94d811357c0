"""A training on Ray Train: its record, the batches in their order, workers, checkpoints.

It takes label sets and a factory of networks. Nothing here knows the parts of a network.
"""
