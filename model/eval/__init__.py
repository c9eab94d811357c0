"""How good detections are: COCO's average precision, and which class is taken for which. Free of torch.

In come labels and detections as plain values.
"""
