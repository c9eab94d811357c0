"""The networks, built from torchvision's parts as `model.json` describes them.

In comes a spec, out comes a module with fresh weights. Nothing here predicts or learns.
"""
