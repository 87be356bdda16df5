-- One load for wrk: `wrk ... -s load.lua URL -- KIND SUBJECTS [KEY]`. Ends with one line for the script that started it.
--
-- KIND: ours-consume, ours-check, ours-events, gate-consume, gate-check, constant.
-- SUBJECTS: how many subjects are asked about, by chance; 1 makes one of them hot.

local product = "/v1/products/bench"
local consume = '{"feature":"calls","amount":1}'
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

local function text(method, before, after, headers, body)
  local lines = method .. " " .. before
  local rest = after .. " HTTP/1.1\r\nHost: bench\r\n" .. headers
  if body then
    rest = rest .. "Content-Type: application/json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
  else
    rest = rest .. "\r\n"
  end
  return lines, rest
end

-- A thousand events with ids that nobody has had before.
local function events(headers, subjects, run)
  local sent = 0
  local parts = {}
  return function()
    for i = 1, 1000 do
      sent = sent + 1
      parts[i] = '{"specversion":"1.0","id":"' .. run .. "-" .. sent .. '","source":"/bench","type":"quota.usage.recorded.v1",'
        .. '"subject":"s' .. math.random(subjects) .. '","data":{"feature":"calls","amount":1}}'
    end
    local body = "[" .. table.concat(parts, ",") .. "]"
    return "POST " .. product .. "/events HTTP/1.1\r\nHost: bench\r\n" .. headers
      .. "Content-Type: application/cloudevents-batch+json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
  end
end

function init(args)
  local kind, subjects = args[1], tonumber(args[2])
  local headers = args[3] and ("Authorization: Bearer " .. args[3] .. "\r\n") or ""
  local run = os.time() .. "-" .. number .. "-" .. tostring({}):sub(-8)
  math.randomseed(os.time() * 31 + number)
  local before, after
  if kind == "ours-consume" then
    before, after = text("POST", product .. "/subjects/s", "/consume", headers, consume)
  elseif kind == "ours-check" then
    before, after = text("GET", product .. "/subjects/s", "/check?feature=calls", headers)
  elseif kind == "gate-consume" then
    before, after = text("POST", "/subjects/s", "/consume", headers, consume)
  elseif kind == "gate-check" then
    before, after = text("GET", "/subjects/s", "/check?feature=calls", headers)
  elseif kind == "constant" then
    before, after = text("GET", "/constant?s", "", headers)
  elseif kind == "ours-events" then
    request = events(headers, subjects, run)
    return
  else
    error("unknown kind of load: " .. tostring(kind))
  end
  local random = math.random
  request = function() return before .. random(subjects) .. after end
end

function done(summary, latency)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("load rate=%.1f p50_ms=%.3f p99_ms=%.3f refused=%d broken=%d\n",
    summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, broken))
end
