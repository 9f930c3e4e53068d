"""Benchmark: what does a message cost, compared with other implementations in the same run?"""
