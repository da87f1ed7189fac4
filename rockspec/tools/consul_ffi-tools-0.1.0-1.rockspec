rockspec_format = "3.0"
package = "consul_ffi-tools"
version = "0.1.0-1"
source = {
  url = "git+https://github.com/consul-ffi/consul_ffi.git",
  tag = "v0.1.0",
}
description = {
  summary = "consul-ha, with which operators look at a cluster and change it, and consul-migrate, from etcd to Consul",
  detailed = [[
Programs; building them requires Rust's cargo. They need neither the module nor a Lua engine.]],
  homepage = "https://github.com/consul-ffi/consul_ffi",
  license = "MIT OR Apache-2.0",
}
supported_platforms = { "unix" }
dependencies = { "lua >= 5.1, < 5.5" }
build = {
  type = "command",
  build_command = "bash rockspec/build-tools.sh target/rock/tools",
  install = { bin = { "target/rock/tools/consul-ha", "target/rock/tools/consul-migrate" } },
}
