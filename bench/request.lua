-- Drives wrk. Reads its orders from the environment: targets, fields, method, body size.
local targets = {}
for target in string.gmatch(os.getenv("BENCH_TARGETS"), "[^\n]+") do
  targets[#targets + 1] = target
end

wrk.method = os.getenv("BENCH_METHOD")
local body_bytes = tonumber(os.getenv("BENCH_BODY_BYTES"))
if body_bytes > 0 then
  wrk.body = string.rep("x", body_bytes)
end
for line in string.gmatch(os.getenv("BENCH_FIELDS"), "[^\n]+") do
  local name, value = string.match(line, "^([^:]+): (.*)$")
  wrk.headers[name] = value
end

local requests = {}
local turn = 0

function init(args)
  -- Formatted once; formatting per request would make the generator the bottleneck.
  for i, target in ipairs(targets) do
    requests[i] = wrk.format(nil, target)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, requests_done)
  local errors = summary.errors
  io.write(string.format(
    '\nBENCH {"requests":%d,"microseconds":%d,"errors":%d,"p50":%.1f,"p99":%.1f}\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
