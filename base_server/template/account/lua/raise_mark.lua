-- purpose: Raise what is known here of the global database's mark. It never falls: of calls that
--   overtake each other the highest stays, whichever comes last. A database that came back older is
--   noted with the time.
-- KEYS: mark
-- ARGV: number; generation; account_db_key of an account stored just now, or '';
--   lost_changes how many the database lacks, '' when it is not older
-- returns: 0
-- allow-oom: the five numbers of the one mark
if redis.call('TYPE', mark).ok ~= 'hash' then redis.call('DEL', mark) end

local function raise(field, value)
  if tonumber(value) > (tonumber(redis.call('HGET', mark, field) or '') or -1) then
    redis.call('HSET', mark, field, value)
  end
end
raise('number', number)
raise('generation', generation)
if account_db_key ~= '' then redis.call('HSET', mark, 'account', account_db_key) end
if lost_changes ~= '' then
  -- The newest account that was known may be among what was lost: it would be missed again at every
  -- check.
  redis.call('HDEL', mark, 'account')
  redis.call('HSET', mark, 'older_s', redis.call('TIME')[1], 'lost', lost_changes)
end
return 0
