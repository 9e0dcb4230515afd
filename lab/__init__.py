"""Crucible: merge, fine-tune, compare and score language models."""

__version__ = "0.1.0"
