"""The fast path of prediction: torchvision's results with less work.

In come a network and images, out come detections. Each part is held to torchvision's by a test. Nothing here learns.
"""
