"""HTTP: heads, bodies, fields, ranges, dates, origins and file names. Nothing about VB365 or
jobs.
"""
