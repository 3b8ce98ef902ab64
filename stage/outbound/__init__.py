"""What the stage says to others: external APIs, downstream, upstream."""
