"""Class room: how do students join a lab from their browsers, and what does a board show?"""
