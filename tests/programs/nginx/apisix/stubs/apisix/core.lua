-- The parts of APISIX's core that its modules for Consul use, in plain Lua.
local cjson = require("cjson.safe")

local core = {
  json = { decode = cjson.decode, delay_encode = tostring },
  string = {},
  table = setmetatable({ new = require("table.new"), clear = require("table.clear") }, { __index = table }),
  log = {},
  lrucache = {},
}

for level, name in pairs({ error = "ERR", warn = "WARN", notice = "NOTICE", info = "INFO" }) do
  core.log[level] = function(...)
    local texts = {}
    for i = 1, select("#", ...) do
      texts[i] = tostring((select(i, ...)))
    end
    ngx.log(ngx[name], table.concat(texts))
  end
end

function core.json.encode(value)
  return cjson.encode(value)
end

function core.string.has_prefix(text, prefix)
  return text:sub(1, #prefix) == prefix
end

function core.string.has_suffix(text, suffix)
  return suffix == "" or text:sub(-#suffix) == suffix
end

-- Keeps what `create` returns for a time, its failures too.
function core.lrucache.new(options)
  local kept = {}
  return function(key, _, create, ...)
    local entry = kept[key]
    if not entry or entry.ends <= ngx.now() then
      local value, why = create(...)
      entry = { value = value, why = why, ends = ngx.now() + (value and options.ttl or options.neg_ttl) }
      kept[key] = entry
    end
    return entry.value, entry.why
  end
end

return core
