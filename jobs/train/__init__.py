"""`masklake train`: its options, what it starts from, its progress, and the gate of promotion."""
