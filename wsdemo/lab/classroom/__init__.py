"""Class room: students join a lab from their own browsers, and a board shows what happens."""
