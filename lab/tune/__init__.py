"""Fine-tuning: the spec, what is checked before a job is queued, and the loop on transformers' Trainer."""
