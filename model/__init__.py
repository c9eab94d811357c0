"""Networks and everything that is computed of pixels: architecture, weights, prediction, masks, losses, scores.

May come in: torch, torchvision, numpy, pycocotools. Must not: Ray, storage, lakes, `masklake.pipeline`, `masklake.jobs`. What says
"free of torch" on its first line stays so.
"""
