"""Label Studio as a server: tasks pushed to a project, annotations pulled from it, and its ML backend."""
