rockspec_format = "3.0"
package = "etcd_ffi"
version = "0.1.0-1"
source = {
  url = "git+https://github.com/consul-ffi/consul_ffi.git",
  tag = "v0.1.0",
  dir = "consul_ffi/etcd",
}
description = {
  summary = "The API of an etcd client, on Consul",
  homepage = "https://github.com/consul-ffi/consul_ffi",
  license = "MIT OR Apache-2.0",
}
supported_platforms = { "unix" }
dependencies = { "lua >= 5.1, < 5.5", "consul_ffi" }
build = {
  type = "builtin",
  modules = {
    etcd_ffi = "lua/etcd_ffi.lua",
    etcd_ha = "lua/etcd_ha.lua",
  },
}
