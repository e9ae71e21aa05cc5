"""VMAS scenarios, and the SHAC++ paper's tasks."""
