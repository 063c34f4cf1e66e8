-- purpose: Raise what is known here of the global database's mark. It never falls: of calls that overtake each other
--   the highest stays, whichever comes last. A database that came back older is noted with the time.
-- KEYS: 1 mark
-- ARGV: 1 number; 2 generation; 3 account_db_key of an account stored just now, or ''; 4 how many changes the database lacks, '' when it is not older
-- returns: 0
-- allow-oom: the five numbers of the one mark
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
for i, field in ipairs({ 'number', 'generation' }) do
  if tonumber(ARGV[i]) > (tonumber(redis.call('HGET', KEYS[1], field) or '') or -1) then
    redis.call('HSET', KEYS[1], field, ARGV[i])
  end
end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'account', ARGV[3]) end
if ARGV[4] ~= '' then
  -- The newest account that was known may be among what was lost: it would be missed again at every check.
  redis.call('HDEL', KEYS[1], 'account')
  redis.call('HSET', KEYS[1], 'older_s', redis.call('TIME')[1], 'lost', ARGV[4])
end
return 0
