"""What one request may ask for, and the error of one that asks for more, or for something else than there is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a request; by default those of a server for people's questions.

    Attributes:
        images: In a request.
        body: Bytes of a request: images are base64 there, a third more than their files.
        pixels: Of an image, width x height.
        pixels_in_all: Of the images of a request together, which are held decoded until it is answered: 3 bytes each.
        new_tokens: Longest answer that may be asked for.
        answer: New tokens of a request that names no limit.
        upload: Seconds that a body may take to arrive.
        wait: Seconds from a whole request to its answer.
        waiting: Requests that wait for the model; further ones are sent away.
    """

    images: int = 16
    body: int = 64 << 20
    pixels: int = 40_000_000
    pixels_in_all: int = 100_000_000
    new_tokens: int = 1024
    answer: int = 64
    upload: float = 30.0
    wait: float = 120.0
    waiting: int = 256


class Refused(Exception):
    """A request that gets no answer.

    Args:
        status: Of HTTP.
        message: What is wrong with it, and what would be right.
        param: The field of the request, where it is one's fault.
        retry: Seconds after which it may be sent again, where time helps.
    """

    def __init__(self, status: int, message: str, param: str | None = None, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.retry = status, message, param, retry

    @property
    def body(self) -> dict[str, object]:
        """As the OpenAI API writes errors."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": self.message, "type": kinds.get(self.status, kind), "param": self.param, "code": self.status,
            }
        }  # fmt: skip
