"""How do we speak to Redis?"""
