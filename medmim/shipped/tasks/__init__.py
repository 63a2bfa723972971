"""The shipped gate policies."""
