"""Tables that follow from events: how they are defined, built, kept up to date, versioned and read.

`columns.py` says what a field is as a column, `table.py` how rows are written and read in each database, `reading.py` which rows an
event touches, `registry.py` what the log knows of each version, `building.py` how a version is built from history,
`following.py` how it is kept from there, `versions.py` which of them readers see, `serving.py` puts it together.
"""

__all__: list[str] = []
