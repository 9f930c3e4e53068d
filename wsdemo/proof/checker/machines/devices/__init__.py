"""Machine of several devices: is each device of a user exactly a user of the presence scripts?"""
