"""Comparing a model's outputs with other implementations: `packhorse verify`.

`cases` gives inputs, `references` the other implementations, `agreement` decides what counts as
equal, `search` names the first node that differs, `verification` puts them together.
"""
