"""Who may say where a user is? Each policy is one file."""
