"""Segments, replay buffers and recorded data."""
