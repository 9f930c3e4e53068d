"""Proofs: does the gateway keep its promises, under faults and in every order of commands?"""
