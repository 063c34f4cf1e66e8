-- A lock's string is the holder's token : its TTL in ms @ the generation that it was taken in. It
-- ends with its Redis run: its holder's process may have died with that.
local function suffix_of(generation)
  return '@' .. (redis.call('GET', generation) or '')
end

-- The string at a lock that was taken in this generation, or nil.
local function holder_of(lock, suffix)
  local holder = redis.call('GET', lock)
  return holder and string.sub(holder, -#suffix) == suffix and holder or nil
end

local function is_held_by(token, holder)
  return holder ~= nil and string.sub(holder, 1, #token + 1) == token .. ':'
end
