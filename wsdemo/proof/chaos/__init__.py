"""Chaos: do the promises hold on real processes while faults are injected?"""
