"""`masklake compact` and `masklake forget`: options in, a report out. What they do is pipeline/tend."""
