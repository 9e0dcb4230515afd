"""One small file each: score/metrics."""
