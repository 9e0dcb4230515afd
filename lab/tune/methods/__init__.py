"""One small file each: tune/methods."""
