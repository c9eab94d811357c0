"""Which images are worth a person's time: candidates, scores, choice, tasks.

In come a lake's rows and labels; out come tasks for people. Nothing here writes to the lake.
"""
