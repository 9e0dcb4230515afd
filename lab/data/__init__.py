"""Datasets: import, check, hold out, encode and preview. Knows conversations; knows nothing of training."""
