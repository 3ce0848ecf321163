"""The forms that `canonicalize` brings calls to: each file has the rules of one kind."""
