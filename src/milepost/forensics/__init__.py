"""Read-only views of a store for notebooks."""
