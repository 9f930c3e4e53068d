"""Test rig: which real parts do the laboratory and the proofs share?"""
