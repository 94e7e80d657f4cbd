"""The check-up: what works on this machine and what does not, each with its remedy; ``doctor`` shows it."""
