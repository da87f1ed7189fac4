-- APISIX's events between workers, of an nginx that has one.
local events = {}

function events.event_list(_, source, ...)
  local list = { _source = source }
  for _, event in ipairs({ ... }) do
    list[event] = event
  end
  return list
end

function events.register()
end

function events.post()
  return true
end

return events
