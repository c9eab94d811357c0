"""A run, in the order in which an image passes through it: listing → manifest → fetch → decode → infer → encode → write, and the proof at the end.

It takes a source, a lake and a factory of predictors. Nothing here knows which model runs, or how a run is shown.
"""
