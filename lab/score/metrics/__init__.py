"""The metrics, one small file each: likelihoods in, a score with its interval out. Pure."""
