-- Sorted streams of points as one. A stream is a function that gives the next point, nil at its end.

local function is_before(one, other)
  if one.timestamp ~= other.timestamp then
    return one.timestamp < other.timestamp
  end
  return one.tags < other.tags
end

-- Of points with the same time and tags the one with the highest version is given, once.
return function(streams)
  local heads = {}
  for i, stream in ipairs(streams) do
    heads[i] = stream() or false
  end
  return function()
    local first
    for _, head in ipairs(heads) do
      if head and (not first or is_before(head, first)) then
        first = head
      end
    end
    if not first then
      return nil
    end
    local newest = first
    for i, head in ipairs(heads) do
      if head and not is_before(first, head) then
        newest = head.version > newest.version and head or newest
        heads[i] = streams[i]() or false
      end
    end
    return newest
  end
end
