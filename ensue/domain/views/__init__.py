"""Tables that follow from events: how they are built, kept up to date, versioned and read.

`table.py` says how rows are written and read in each database, `reading.py` which rows an event touches, `registry.py` what the log
knows of each version, `building.py` how a version is built from history, `following.py` how it is kept from there, `kept.py` which of
them this process builds and keeps, and which one readers see; `serving.py` puts the views of an application together.
"""

__all__: list[str] = []
