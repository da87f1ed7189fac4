-- Compares the rows read, a list of { timestamp, value }, with the points written: { value, acknowledged }
-- by timestamp. Returns counts of errors. A point that was not acknowledged may be present or missing.
return function(found, written)
  local wrong = { lost = 0, duplicate = 0, disordered = 0, altered = 0 }
  local seen, last = {}, -math.huge
  local function add(what, is_wrong)
    wrong[what] = wrong[what] + (is_wrong and 1 or 0)
  end
  for _, row in ipairs(found) do
    local point = written[row.timestamp]
    add("duplicate", seen[row.timestamp])
    add("disordered", row.timestamp < last)
    add("altered", not point or point.value ~= row.value)
    seen[row.timestamp], last = true, row.timestamp
  end
  for timestamp, point in pairs(written) do
    add("lost", point.acknowledged and not seen[timestamp])
  end
  return wrong
end
