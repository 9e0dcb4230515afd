"""The search room: which numbers of a merge score best."""
