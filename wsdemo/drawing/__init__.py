"""Drawing: how does every figure look, and where do its texts go?"""
