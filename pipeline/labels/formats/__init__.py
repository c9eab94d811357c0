"""Annotation files of other tools, read and written: COCO, Label Studio.

One module reads a format, one writes it. What a file says is not trusted; what is not understood is counted, never dropped
in silence.
"""
