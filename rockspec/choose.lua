-- LuaJIT and Lua 5.1 are one version to luarocks: a rock for both has a module for each.
return require((rawget(_G, "jit") and "luajit" or "lua51") .. "-consul_ffi")
