"""What the HTTP servers of `masklake view` and `masklake backend` share."""
