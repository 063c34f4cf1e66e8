-- purpose: Read a page of a stream without taking anything away, with what is known about failed
--   deliveries.
-- KEYS: stream; attempts
-- ARGV: first_id of the page, "(" before it excludes it, "-" is the head; limit of the page
-- returns: {now in ms, entries as XRANGE gives them,
--   for each entry "attempts:not before in ms" or ""}
local entries, attempts_of = redis.call('XRANGE', stream, first_id, '+', 'COUNT', limit), {}
for i, entry in ipairs(entries) do
  attempts_of[i] = redis.call('HGET', attempts, entry[1]) or ''
end
return { now_ms(), entries, attempts_of }
