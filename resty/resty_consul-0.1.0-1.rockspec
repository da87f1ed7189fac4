rockspec_format = "3.0"
package = "resty_consul"
version = "0.1.0-1"
source = {
  url = "git+https://github.com/consul-ffi/consul_ffi.git",
  tag = "v0.1.0",
  dir = "consul_ffi/resty",
}
description = {
  summary = "The API of lua-resty-consul, on consul_ffi",
  homepage = "https://github.com/consul-ffi/consul_ffi",
  license = "MIT OR Apache-2.0",
}
supported_platforms = { "unix" }
-- It needs lua-cjson too, which OpenResty brings. As a dependency luarocks would compile it again.
dependencies = { "lua >= 5.1, < 5.5", "consul_ffi" }
build = {
  type = "builtin",
  modules = {
    ["resty.consul"] = "lua/resty/consul.lua",
  },
}
