"""Measures of identity, background and layout."""
