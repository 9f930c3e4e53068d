"""Figures: how is shown what happened? One figure a file."""
