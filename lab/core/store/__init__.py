"""The lab's memory: jobs, events, models, datasets, scores and workers. The only SQL of the project."""
