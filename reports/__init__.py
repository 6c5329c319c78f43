"""Pictures and tables, made from timelines and results alone (floor 3).

Pages are single HTML files that open offline; nothing here computes a time or a size anew.
"""
