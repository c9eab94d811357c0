"""`masklake models`, and the way from the --model that a user types to a predictor in a worker."""
