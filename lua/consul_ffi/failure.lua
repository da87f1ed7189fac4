-- The errors of our Lua modules: tables with the fields of consul_ffi.Error, which print and concatenate as their
-- message, like the native module's.
local Failure = {
  __tostring = function(err)
    return tostring(err.message)
  end,
  __concat = function(left, right)
    return tostring(left) .. tostring(right)
  end,
}

-- Makes an error of its fields.
return function(fields)
  return setmetatable(fields, Failure)
end
