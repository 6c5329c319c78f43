"""Rates of a machine from measurements on it."""
