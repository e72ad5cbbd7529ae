"""From records to what a reader looks at: tables in the terminal, figures, and an HTML page.

Reads nothing but records, so that a report costs seconds and can be made again at any time.
"""
