-- First element of an answer. ScriptStatus in cache/scripts.py has the same names.
local OK, NOT_LOADED, NOT_FOUND, BUSY, MISMATCH, NEEDS_DATABASE, FULL, SUPERSEDED, WAIT, REFUSED,
  PARTIAL, DUPLICATE, DAMAGED = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
