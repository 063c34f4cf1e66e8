local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A dead letter with these fields is gone: its group is held up by one less.
local function let_go(held, fields)
  for index = 1, #fields, 2 do
    if fields[index] == 'dead_group' and fields[index + 1] ~= '' then
      local left = redis.call('HINCRBY', held, fields[index + 1], -1)
      if left <= 0 then redis.call('HDEL', held, fields[index + 1]) end
    end
  end
end
