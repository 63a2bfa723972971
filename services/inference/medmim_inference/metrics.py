"""What Prometheus is told, at `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("medmim_requests", "Requests by status of HTTP", ["status"], registry=own)
        self.seconds = Histogram(
            "medmim_request_seconds", "From a whole request to its answer", buckets=_SECONDS, registry=own
        )
        self.batches = Histogram("medmim_batch_size", "Questions asked together", buckets=_SIZES, registry=own)
        self.waiting = Gauge("medmim_waiting", "Questions that wait for the model", registry=own)
        self.prompt_tokens = Counter("medmim_prompt_tokens", "Tokens read, those of images included", registry=own)
        self.new_tokens = Counter("medmim_new_tokens", "Tokens written", registry=own)
        self.answers = Counter("medmim_answers", "Answers by model", ["model"], registry=own)
        self.events = Counter("medmim_model_events", "What became of the model that is meant", ["event"], registry=own)
        self.model = Info("medmim_model", "The model that answers", registry=own)
        for event in ("switched", "refused", "unreachable"):
            self.events.labels(event)
