"""Real parts that the laboratory and the proofs share."""
