"""The experiments of the seed documents, one file each: `python benchmarks/experiments NAME` makes docs/experiments/NAME.md."""
