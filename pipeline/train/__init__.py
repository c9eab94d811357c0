"""A training on Ray Train: its record, the batches in their order, workers, checkpoints.

In come label sets and a factory of learners. Nothing here knows a network's parts.
"""
