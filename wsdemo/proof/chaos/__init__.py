"""What do real processes and real accidents do to the promises?"""
