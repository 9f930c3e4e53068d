"""Races: which orders of commands are there, and how do they end?"""
