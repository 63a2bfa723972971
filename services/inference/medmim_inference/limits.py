"""What one request may ask of a server."""

from dataclasses import dataclass

from medmim.registry import chat


@dataclass(frozen=True)
class Limits(chat.Limits):
    """Bounds of a request; by default those of a server for people's questions.

    Attributes:
        body: Bytes of a request: images are base64 there, a third more than their files.
        upload: Seconds that a body may take to arrive.
        wait: Seconds from a whole request to its answer.
        waiting: Requests that wait for the model; further ones are sent away.
    """

    body: int = 64 << 20
    upload: float = 30.0
    wait: float = 120.0
    waiting: int = 256
