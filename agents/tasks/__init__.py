"""Task evolution: where the tasks of a generation come from."""
