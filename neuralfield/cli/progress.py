"""A progress bar on stderr; in a log, a line now and then."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import neuralfield.training.progress as training

LINE_EVERY = 10.0
"""Seconds between lines where stderr is not a terminal."""


class Bar(training.Progress):
    """Draws one bar per stage."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}"),
        )
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal)
        self.task: TaskID | None = None
        self.name, self.last_line = "", 0.0
        self.bar.start()

    def stage(self, name: str) -> None:
        if self.task is not None:
            self.bar.update(self.task, completed=1.0)
        self.task = self.bar.add_task(name, total=1.0, facts="")
        self.name, self.last_line = name, time.perf_counter()
        if not self.console.is_terminal:
            self.console.print(f"{name} ...")

    def report(self, report: training.Report) -> None:
        score = "" if report.score is None else f"  {report.headline} {report.score:.1f}"
        facts = f"epoch {report.epoch}  loss {report.loss:.3f}{score}  {report.points_per_second / 1e6:.2f} M points/s"
        self._move(report.share, facts)

    def share(self, share: float) -> None:
        self._move(share, "")

    def stop(self) -> None:
        """The end: finish the last bar."""
        self.bar.stop()

    def _move(self, share: float, facts: str) -> None:
        assert self.task is not None
        self.bar.update(self.task, completed=share, facts=facts)
        if not self.console.is_terminal and time.perf_counter() - self.last_line > LINE_EVERY:
            self.last_line = time.perf_counter()
            self.console.print(f"{self.name} {share:.0%}  {facts}".rstrip())
