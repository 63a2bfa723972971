"""How questions on the real sources are worded, as tables: our own strict form, the published one, and synonyms."""
