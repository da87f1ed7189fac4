-- The configuration that APISIX reads from config.yaml: here `CONFIG`, JSON in the environment.
local conf = require("cjson").decode(os.getenv("CONFIG"))

-- Sets what a schema has as defaults, as APISIX's check of the file does.
local function fill(value, schema)
  for name, of in pairs(schema.properties or {}) do
    if value[name] == nil then
      value[name] = of.default
    end
    if type(value[name]) == "table" then
      fill(value[name], of)
    end
  end
end

for name, options in pairs(conf.discovery) do
  fill(options, require("apisix.discovery." .. name .. ".schema"))
end

return {
  local_conf = function()
    return conf
  end,
}
