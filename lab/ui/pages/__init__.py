"""One small file each: ui/pages."""
