"""Multi-agent networks."""
