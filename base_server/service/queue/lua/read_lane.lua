-- purpose: Read a page of a lane without taking anything away, with what is known about failed deliveries.
-- KEYS: 1 lane stream; 2 retries
-- ARGV: 1 first entry id of the page, "(" before it excludes it, "-" is the head; 2 longest page
-- returns: {now in ms, entries as XRANGE gives them, for each entry "attempts:not before in ms" or ""}
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local retries = {}
for index, entry in ipairs(entries) do
  retries[index] = redis.call('HGET', KEYS[2], entry[1]) or ''
end
return {now_ms(), entries, retries}
