"""Figures: how is shown what happened? There is one file for each figure."""
