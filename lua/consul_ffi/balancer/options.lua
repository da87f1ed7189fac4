-- The options of a balancer, declared once. Times are in seconds.
local option_types = require("consul_ffi.option_types")

local types, refusal = option_types.types, option_types.refusal

-- { name, type, default }
local LIST = {
  { "policy", "policy", "round_robin" },
  { "zone", "text" },
  { "zone_meta", "text", "zone" },
  { "max_failures", "nodes", 3 },
  { "ejection_s", "seconds", 10 },
  { "max_ejected", "share", 0.5 },
  { "slow_start_s", "duration", 0 },
  { "load_factor", "factor", 1.25 },
  { "report_within_s", "seconds", 60 },
  { "now", "callback" },
  { "random", "callback" },
}

local names, is_known = {}, {}
for i, option in ipairs(LIST) do
  names[i], is_known[option[1]] = option[1], true
end

-- Returns the options with their defaults; raises an error about a name or value that is not allowed.
return function(given)
  if type(given) ~= "table" and given ~= nil then
    error(("balancer.new: the options must be a table, got a %s"):format(type(given)), 3)
  end
  for name in pairs(given or {}) do
    if not is_known[name] then
      error(("balancer.new: unknown option %s; the options are: %s"):format(
        tostring(name), table.concat(names, ", ")), 3)
    end
  end
  local options = {}
  for _, option in ipairs(LIST) do
    local name, kind, default = option[1], types[option[2]], option[3]
    local value = given and given[name]
    if value == nil then
      value = default
    else
      local why = refusal(kind, value)
      if why then
        error(("balancer.new: %s %s"):format(name, why), 3)
      end
    end
    options[name] = value
  end
  return options
end
