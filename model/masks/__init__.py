"""Masks as run lengths: from probabilities in a box to COCO's RLE, to the last bit what torchvision and pycocotools make.

Nothing here knows a network.
"""
