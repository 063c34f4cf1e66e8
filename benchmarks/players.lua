-- Sends the prepared requests of a file again and again: wrk -s players.lua URL -- FILE
-- A line of the file: path, TAB, token, TAB, body. Prints one JSON line at the end.

local requests = {}
local next_one = 0

function init(args)
    local headers = { ["Content-Type"] = "application/json" }
    for line in io.lines(args[1]) do
        local path, token, body = line:match("^(.-)\t(.-)\t(.*)$")
        headers["Authorization"] = token ~= "" and ("Bearer " .. token) or nil
        requests[#requests + 1] = wrk.format("POST", path, headers, body)
    end
end

function request()
    next_one = next_one % #requests + 1
    return requests[next_one]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "duration_us": %d, "bytes": %d, "refused": %d, "broken": %d, "p50_us": %d, "p99_us": %d}\n',
        summary.requests, summary.duration, summary.bytes, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50), latency:percentile(99)))
end
