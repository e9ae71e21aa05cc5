"""What adapters of other libraries share."""
