"""How do we show what happened? One figure a file."""
