"""A run, along the way of an image: listing → manifest → fetch → decode → infer → encode → write, and the proof at the end.

In come a source, a lake and a factory of predictors. Nothing here knows which model it runs, nor how a run is shown.
"""
