"""Frozen types, errors, the grammar of subjects, limits. Sees nothing else of ours."""
