-- What every engine from Lua 5.1 on has, and no globals of our own.
std = "min"
max_line_length = 120
include_files = { "**/*.lua", "**/*.rockspec", ".busted", ".luacheckrc" }
exclude_files = { "target", "lua/meta", "xtask/src/reference/texts", ".luarocks", "lua_modules" }
files["spec"].std = "min+busted"
files["examples"].std = "max"
files["examples/openresty"].std = "ngx_lua"
files["lua/apisix"].std = "ngx_lua"
files["lua/consul_ffi/openresty*"].std = "ngx_lua"
files["benches"].std = "max"
files["tests"] = { std = "max", read_globals = { "host" } }
files["tests/programs/nginx"].std = "ngx_lua"
files["tests/programs/resty/run.lua"].std = "ngx_lua"
files["tests/programs/resty/calls.lua"].std = "ngx_lua"
files["**/*.rockspec"].std = "rockspec"
files[".luacheckrc"].std = "luacheckrc"
