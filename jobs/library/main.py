"""`python -m masklake`: the command line, as `masklake` is."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder that it is run in, which may hold anybody's code

    from masklake.jobs.cli import program

    program()
