"""Runs jobs: the queue's consumers, the supervisors in them, and the processes that do the work.

Nothing imports this room but app.py and the command line's wiring.
"""
