"""The command line: a room for each command, which reads options, calls the floors below, and says what came of it.

May come in: everything below. Nothing below imports from here.
"""
