"""The shipped recipes; the first comment line of each is its description."""
