"""What happened, in which order, and what does it mean? No drawing."""
