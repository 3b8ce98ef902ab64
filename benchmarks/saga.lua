-- wrk: each request is a new saga. The words come after `--`: a run, unique to this measurement,
-- and for an ingress of another system its path, where the id of the saga is the key of the request.
local counter = 0
local thread = 0
local run = "r"
local path = nil
local shown = os.getenv("SAGA_AUTHORIZATION") -- of benchmarks/security.py

function setup(each)
  each:set("thread", thread)
  thread = thread + 1
end

function init(words)
  run = words[1]
  path = words[2]
end

function request()
  counter = counter + 1
  local id = run .. "-" .. thread .. "-" .. counter
  local body = '{"saga_id":"' .. id .. '","protocol":1,"data":{"order_id":"o-1","amount":100,'
    .. '"currency":"KRW"},"trail":[{"stage":"order","at":"2026-11-23T02:29:58.120Z"}]}'
  if path then
    local headers = {["Content-Type"] = "application/json", ["Idempotency-Key"] = id}
    return wrk.format("POST", path, headers, body)
  end
  local headers = {["Content-Type"] = "application/json", ["Authorization"] = shown}
  return wrk.format("POST", "/sagas", headers, body)
end

function done(summary, latency)
  io.write(string.format(
    'RESULT {"requests":%d,"microseconds":%d,"p50":%d,"p90":%d,"p99":%d,"mean":%.1f,'
      .. '"status_errors":%d,"socket_errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.mean, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
