"""Tending a lake: many small parts become few right-sized ones (compact), and images are forgotten (forget).

It takes a lake; it changes which parts there are, never what a row says. Nothing here starts Ray or runs a model.
"""
