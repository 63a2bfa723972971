"""Why a text of a language model is rejected."""


class Lie(Exception):
    """Why a text is rejected: (kind, what in it)."""

    @property
    def kind(self) -> str:
        """For the counts; it holds no text of the model."""
        return str(self.args[0])

    def __str__(self) -> str:
        return ": ".join(self.args)
