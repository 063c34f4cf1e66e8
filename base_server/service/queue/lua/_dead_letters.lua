local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Numbers as whole text: Lua would write 1.7e+12.
local function int(n)
  return string.format('%.0f', n)
end

-- An entry's fields and values as those of a dead letter. One that was put back before keeps its
-- first id (field `was`), and so its place among its group. Returns that id too.
local function as_dead_letter(entry_id, fields, reason, group, failed_at)
  local flat, first_id = {}, entry_id
  for i = 1, #fields, 2 do
    if fields[i] == 'was' then
      first_id = fields[i + 1]
    else
      flat[#flat + 1] = fields[i]
      flat[#flat + 1] = fields[i + 1]
    end
  end
  local added = {
    'dead_entry', first_id, 'dead_reason', reason, 'dead_at', failed_at, 'dead_group', group,
  }
  for _, text in ipairs(added) do flat[#flat + 1] = text end
  return flat, first_id
end

-- A dead letter was added: it blocks its group, if it has one.
local function block_group(blocked_groups, group)
  if group ~= '' then redis.call('HINCRBY', blocked_groups, group, 1) end
end

-- A dead letter with these fields is gone: its group is blocked by one less.
local function unblock_group(blocked_groups, fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'dead_group' and fields[i + 1] ~= '' then
      local left = redis.call('HINCRBY', blocked_groups, fields[i + 1], -1)
      if left <= 0 then redis.call('HDEL', blocked_groups, fields[i + 1]) end
    end
  end
end
