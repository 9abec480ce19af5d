"""HTTP alone: heads, bodies, fields, ranges, dates, origins and file names. Knows neither VB365 nor
jobs.
"""
