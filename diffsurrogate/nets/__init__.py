"""Networks over agents."""
