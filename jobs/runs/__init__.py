"""`masklake runs`: what runs and trainings a lake holds, and each in full."""
