"""What a fit tells the outside while it works. This one says nothing; the command line has one that draws a bar."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """One look at a fit: `score` is the domain's headline score on a few probe signals, `share` of the fit is done."""

    share: float
    epoch: int
    loss: float
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
