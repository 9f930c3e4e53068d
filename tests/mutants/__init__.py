"""Would a test notice if the product had this mistake? `make mutants`"""
