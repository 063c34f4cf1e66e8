-- Redis time in ms; read once a script (it stands still on Valkey and moves on Redis).
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- ISO 8601 in UTC of a time in ms (days to civil date: Howard Hinnant, "chrono-compatible
-- low-level date algorithms").
local function iso(ms)
  local day = math.floor(ms / 86400000)
  local rest = ms - day * 86400000
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524)
    - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d+00:00', year, month,
    doy - math.floor((153 * mp + 2) / 5) + 1, math.floor(rest / 3600000),
    math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end

-- A number in a text: Lua would write 1.7e+12. (A command of Redis takes the number itself.)
local function int(n)
  return string.format('%.0f', n)
end
