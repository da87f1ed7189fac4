-- The native module, for our other modules. Lua looks for consul_ffi.lua first, so a file that an older
-- module left behind would take its place.
local consul_ffi = require("consul_ffi")

-- Native modules before revision 4 have it under another name.
local own = type(consul_ffi) == "table" and (consul_ffi._internal or consul_ffi._older)

if not own then
  local new = type(consul_ffi) == "table" and rawget(consul_ffi, "new")
  local path = type(new) == "function" and debug.getinfo(new, "S").source:match("^@(.*)") or "consul_ffi"
  error(path .. " is an older consul_ffi, which Lua finds before the native module: delete that file, and beside it "
    .. "consul_ha_cluster.lua, consul_production_config.lua and consistent_hash_cluster.lua if they are as old", 0)
end

-- The revision of the native module that these Lua modules need; the same as in src/module.lua.
local REVISION = 6

if own.revision ~= REVISION then
  -- Lua 5.1 has no such function.
  local searchpath = rawget(package, "searchpath")
  local path = searchpath and searchpath("consul_ffi", package.cpath) or "consul_ffi.so"
  error(("the native module (%s) and consul_ha_cluster.lua, consul_production_config.lua and the others are of "
    .. "different versions: install both from one build; if they are, start this process again, since a reload of "
    .. "nginx keeps the module that it has loaded"):format(path), 0)
end

return consul_ffi
