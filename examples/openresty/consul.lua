-- Calls to Consul in OpenResty that block only their request, not the worker.
local openresty = require("consul_ffi.openresty")
local consul = { client = openresty.new() }

-- Answers with a key's value, with an index after a change from it.
function consul.serve_key(key, index, wait)
  local success, value, extra = consul.client:kv_get(key, { index = index, wait = wait })
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
