"""`diffsurrogate reproduce`: a paper's table as a grid of trainings."""
