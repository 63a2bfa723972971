"""Web pages over a store and a registry: read by whoever reaches them, changed by those who may promote."""
