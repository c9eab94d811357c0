"""`masklake segment`: its options, its progress, its summary."""
