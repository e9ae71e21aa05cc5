"""The paper's tasks as VMAS scenarios."""
