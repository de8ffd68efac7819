"""Report outcomes of predictions to a Sundog edge: `Feedback` from threads, `AsyncFeedback` from an event loop.

`send` never waits for the network and never raises because of it. Needs the extra `sundog[feedback]` and nothing else of Sundog.
"""

from sundog_feedback.async_client import AsyncFeedback
from sundog_feedback.base_client import Options, Outcome
from sundog_feedback.outbox import Counts
from sundog_feedback.thread_client import Feedback

__all__ = ["AsyncFeedback", "Counts", "Feedback", "Options", "Outcome"]
