"""What can go wrong?"""
