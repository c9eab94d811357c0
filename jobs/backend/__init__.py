"""`masklake backend`: a lake's model as an ML backend of Label Studio, so that annotators start from its masks.

In this room: predictions of tasks (`predicting`), the answers of the protocol (`protocol`), the server (`server`).
"""
