"""Three things to notice: a machine that fails, loans that are stuck, and cards that were stolen."""
