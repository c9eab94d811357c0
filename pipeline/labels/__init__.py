"""The labels of a lake: read from annotation files, placed on images, merged, checked, kept as label sets.

In come files of other tools (`formats`, one module a direction); out come label sets. Training and review build on this
room, and it on neither.
"""
