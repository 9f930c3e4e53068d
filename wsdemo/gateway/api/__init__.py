"""Server API: what may a backend ask for by HTTP?"""
