"""One small file each: merge/methods."""
