"""What a fit tells the outside while it works. This one says nothing; the command line has one that draws a bar."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """One look at a fit: `share` of it is done; `score` is the domain's score of name `headline` on a few probe signals."""

    share: float
    epoch: int
    loss: float
    headline: str
    score: float | None
    points_per_second: float


class Progress:
    """Receives stages ("training", "polishing codes") and reports."""

    def stage(self, name: str) -> None:
        """A new stage begins."""

    def report(self, report: Report) -> None:
        """Training moved on."""

    def share(self, share: float) -> None:
        """Another stage moved on."""
