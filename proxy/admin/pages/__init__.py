"""The pages of the admin listener: the dashboard as it is without scripts, and the login page
(CONTRACT §16). What they show is the JSON of /api.
"""
