"""Which images are worth a person's time: candidates, scores, choice, tasks.

It takes a lake's rows and labels, and makes tasks for people. Nothing here writes to the lake.
"""
