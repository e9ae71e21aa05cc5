"""The env protocol, and what every env does."""
