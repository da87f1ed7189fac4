-- The part of Consul that lists are of, as a text.
local scope = {}

-- By the options that choose it; "" for the agent's own.
function scope.of(config)
  local chosen = {}
  for _, name in ipairs({ "datacenter", "namespace", "partition" }) do
    local value = (config or {})[name] or name ~= "datacenter" and os.getenv("CONSUL_" .. name:upper()) or ""
    if value ~= "" then
      chosen[#chosen + 1] = ("%s %s"):format(name, value)
    end
  end
  return table.concat(chosen, ", ")
end

-- The same in a message.
function scope.words(of)
  return of == "" and "the agent's own datacenter" or tostring(of)
end

return scope
