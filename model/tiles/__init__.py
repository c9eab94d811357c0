"""Images that are too large for one look: cut into tiles, predicted, put together.

In comes any predictor; nothing here knows what is inside it.
"""
