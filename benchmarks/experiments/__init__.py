"""The experiments of the seed documents, one file each: `python benchmarks/experiments NAME` makes the page docs/experiments/NAME.md."""
