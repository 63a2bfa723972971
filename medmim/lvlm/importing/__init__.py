"""Bring a published checkpoint in: `run.import_base` reads the original layout and publishes a base."""
