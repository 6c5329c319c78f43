"""Orders of the same tasks that are proved to be the best: see docs/optimal.md."""
