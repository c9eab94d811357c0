"""The lake and everything that moves data in and out of it: storage, runs, labels, models kept, trainings.

May come in: Ray, Arrow, fsspec, and from `masklake.model` what is free of torch. Networks come as factories that the caller
gives. Must not: `masklake.jobs`, argparse, anything that prints.
"""
