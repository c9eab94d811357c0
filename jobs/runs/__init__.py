"""`masklake runs`: list the runs and trainings of a lake, or show one of them in full."""
