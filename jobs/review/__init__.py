"""`masklake review`: which images people should correct next, as tasks."""
