"""What does a message cost, beside the same work done otherwise, in one run?"""
