"""The processes that run jobs: queue, supervisors, children."""
