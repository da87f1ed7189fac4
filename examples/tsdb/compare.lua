-- What was read beside what was written. `found` is a list of { timestamp, value } as it was read;
-- `written` has { value, acknowledged } by timestamp. What was not acknowledged may be there, or not.
return function(found, written)
  local wrong = { lost = 0, doubled = 0, disordered = 0, altered = 0 }
  local seen, last = {}, -math.huge
  local function add(what, is_so)
    wrong[what] = wrong[what] + (is_so and 1 or 0)
  end
  for _, row in ipairs(found) do
    local point = written[row.timestamp]
    add("doubled", seen[row.timestamp])
    add("disordered", row.timestamp < last)
    add("altered", not point or point.value ~= row.value)
    seen[row.timestamp], last = true, row.timestamp
  end
  for timestamp, point in pairs(written) do
    add("lost", point.acknowledged and not seen[timestamp])
  end
  return wrong
end
