"""The life of one call: admit, validate, place, end. Sees `catalog` and `model`; knows no HTTP."""
