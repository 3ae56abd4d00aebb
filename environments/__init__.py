"""The world: tasks, sandboxes and what happened in them. Knows nothing of memory or agents."""
