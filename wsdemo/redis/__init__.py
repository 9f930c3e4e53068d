"""Redis: how do we speak to it, and how do we start one?"""
