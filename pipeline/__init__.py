"""The lake and everything that moves data in and out of it: storage, runs, labels, models kept, trainings.

It may import Ray, Arrow, fsspec, and those modules of `masklake.model` that do not need torch. The caller passes networks as
factories. It must not import `masklake.jobs` or argparse, and it prints nothing.
"""
