-- Calls to Consul in OpenResty that block only their request, not the worker.
local consul_ffi = require("consul_ffi")

local client = consul_ffi.new()
local consul = { client = client }

-- Calls a method of the client; only this request waits for it.
function consul.call(method, ...)
  local handle = client:start(method, ...)
  local done, success, response, extra = handle:poll()
  while not done do
    ngx.sleep(0.001)
    done, success, response, extra = handle:poll()
  end
  return success, response, extra
end

-- Answers with a key's value, with an index after a change from it.
function consul.serve_key(key, index, wait)
  local success, value, extra = consul.call("kv_get", key, { index = index, wait = wait })
  if not success then
    ngx.status = extra.kind == "argument" and 400 or 502
    ngx.say(value)
  elseif value == nil then
    ngx.exit(404)
  else
    ngx.header["X-Consul-Index"] = extra.index
    ngx.print(value)
  end
end

return consul
