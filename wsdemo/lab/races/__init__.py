"""Which orders are there, and how do they end?"""
