"""`masklake eval`: labels against detections; what is measured, and how it is shown."""
