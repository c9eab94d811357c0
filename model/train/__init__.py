"""Learning: examples, augmentation, losses, the step, the recipe, and what a training starts from.

Nothing here knows where images lie or how many workers there are.
"""
