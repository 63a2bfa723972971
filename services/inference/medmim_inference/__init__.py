"""An OpenAI-compatible server of one model that follows the champion of a registry."""
