"""Trace: what happened, in which order, and what does it mean? Nothing is drawn here."""
