-- Values of record fields that stand for something else; cache/records.py says what.
local STALE_GENERATION = '0'
local NO_GENERATION = '-1'
local NO_EVENT = '0-0'
local UNNAMED_VERSION = '-1'
-- Of the records that these scripts write; see FORMAT in cache/records.py.
local FORMAT = 1

-- Before anything is written: a record of a newer version is nothing that this version
-- understands. Its process backs off as in an outage, and leaves the record to the newer ones.
-- (Without a number it is of format 1.)
local function refuse_newer(format)
  if format and (tonumber(format) or 0) > FORMAT then
    error({ err = 'NEWERFORMAT a record has format ' .. format .. ', this server knows ' ..
      FORMAT .. ': upgrade it' })
  end
end

-- Fields of a record by their stored name (docs/records.md says what they mean); a missing one is
-- nil.
local function read_fields(record, names)
  local values = redis.call('HMGET', record, unpack(names))
  local fields = {}
  for i = 1, #names do fields[names[i]] = values[i] or nil end
  return fields
end

-- Is the room's record whole, of this server's generation, and the caller's? nil = yes, else the
-- status to answer. The second result has the record's fields of `names` and those that are
-- looked at here.
local function check_room(room_record, messages, generation, account_db_key, names)
  local count = #names
  names[count + 1], names[count + 2], names[count + 3], names[count + 4], names[count + 5] =
    'owner', 'gone', 'epoch', 'len', 'format'
  local room = read_fields(room_record, names)
  refuse_newer(room.format)
  if room.owner and room.owner ~= account_db_key or room.gone then return NOT_FOUND, room end
  if not room.epoch or room.epoch ~= redis.call('GET', generation)
    or tonumber(room.len) ~= redis.call('LLEN', messages) then
    return NOT_LOADED, room
  end
  return nil, room
end

-- The same of an account's record: nil or NOT_LOADED.
local function check_account(account_record, rooms, order, generation, account_db_key, names)
  local count = #names
  names[count + 1], names[count + 2], names[count + 3], names[count + 4] =
    'owner', 'epoch', 'len', 'format'
  local account = read_fields(account_record, names)
  refuse_newer(account.format)
  if not account.epoch or account.owner ~= account_db_key
    or account.epoch ~= redis.call('GET', generation) then
    return NOT_LOADED, account
  end
  local length = tonumber(account.len)
  if length ~= redis.call('SCARD', rooms) or length ~= redis.call('ZCARD', order) then
    return NOT_LOADED, account
  end
  return nil, account
end

-- A time after the newest activity of the account: two things in one millisecond keep their
-- order, here and in MySQL.
local function after_latest(order, now)
  local newest = redis.call('ZREVRANGE', order, 0, 0, 'WITHSCORES')[2]
  return newest and math.max(now, tonumber(newest) + 1) or now
end

-- What is not in MySQL yet has no TTL.
local function pin(...)
  for _, key in ipairs({ ... }) do redis.call('PERSIST', key) end
end

-- Takes a room from its account's list, if it is there. Redis refuses to add Lua's negative zero.
local function unlist_room(account_record, rooms, order, room_id)
  if redis.call('SREM', rooms, room_id) == 1 then
    redis.call('HINCRBY', account_record, 'len', -1)
  end
  redis.call('ZREM', order, room_id)
end
