"""Tools: what does the repository need that is not a part of the package?"""
