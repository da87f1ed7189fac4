rockspec_format = "3.0"
package = "consul_ffi"
version = "scm-1"
source = {
  url = "git+https://github.com/consul-ffi/consul_ffi.git",
}
description = {
  summary = "A Consul client for Lua engines, with an in-memory Consul agent",
  detailed = [[
A native module for LuaJIT, Lua 5.1, Lua 5.3 and Lua 5.4. Building it requires Rust's cargo.
For LuaJIT: luarocks --lua-version=5.1 make LUA=/usr/bin/luajit]],
  homepage = "https://github.com/consul-ffi/consul_ffi",
  license = "MIT OR Apache-2.0",
}
supported_platforms = { "unix" }
dependencies = { "lua >= 5.1, < 5.5" }
build = {
  type = "command",
  build_command = "bash rockspec/build.sh '$(LUA)' target/rock/consul_ffi.so",
  install = {
    lib = { consul_ffi = "target/rock/consul_ffi.so", "target/rock/consul-guard" },
    lua = {
      ["apisix.discovery.consul_ffi"] = "lua/apisix/discovery/consul_ffi/init.lua",
      ["apisix.discovery.consul_ffi.schema"] = "lua/apisix/discovery/consul_ffi/schema.lua",
      consistent_hash_cluster = "lua/consistent_hash_cluster.lua",
      ["consistent_hash_cluster.advice"] = "lua/consistent_hash_cluster/advice.lua",
      ["consul_ffi.balancer"] = "lua/consul_ffi/balancer.lua",
      ["consul_ffi.balancer.clock"] = "lua/consul_ffi/balancer/clock.lua",
      ["consul_ffi.balancer.hash"] = "lua/consul_ffi/balancer/hash.lua",
      ["consul_ffi.balancer.health"] = "lua/consul_ffi/balancer/health.lua",
      ["consul_ffi.balancer.least_time"] = "lua/consul_ffi/balancer/least_time.lua",
      ["consul_ffi.balancer.options"] = "lua/consul_ffi/balancer/options.lua",
      ["consul_ffi.balancer.pool"] = "lua/consul_ffi/balancer/pool.lua",
      ["consul_ffi.balancer.round_robin"] = "lua/consul_ffi/balancer/round_robin.lua",
      ["consul_ffi.balancer.text_hash"] = "lua/consul_ffi/balancer/text_hash.lua",
      ["consul_ffi.balancer.weights"] = "lua/consul_ffi/balancer/weights.lua",
      ["consul_ffi.cqueues"] = "lua/consul_ffi/cqueues.lua",
      ["consul_ffi.failure"] = "lua/consul_ffi/failure.lua",
      ["consul_ffi.help"] = "lua/consul_ffi/help.lua",
      ["consul_ffi.luasocket"] = "lua/consul_ffi/luasocket.lua",
      ["consul_ffi.luv"] = "lua/consul_ffi/luv.lua",
      ["consul_ffi.meta"] = "lua/meta/library/consul_ffi.d.lua",
      ["consul_ffi.openresty"] = "lua/consul_ffi/openresty.lua",
      ["consul_ffi.openresty.clock"] = "lua/consul_ffi/openresty/clock.lua",
      ["consul_ffi.openresty.dump"] = "lua/consul_ffi/openresty/dump.lua",
      ["consul_ffi.openresty.lease"] = "lua/consul_ffi/openresty/lease.lua",
      ["consul_ffi.openresty.scope"] = "lua/consul_ffi/openresty/scope.lua",
      ["consul_ffi.openresty.texts"] = "lua/consul_ffi/openresty/texts.lua",
      ["consul_ffi.openresty.views"] = "lua/consul_ffi/openresty/views.lua",
      ["consul_ffi.option_types"] = "lua/consul_ffi/option_types.lua",
      ["consul_ffi.yielding"] = "lua/consul_ffi/yielding.lua",
      consul_ha_cluster = "lua/consul_ha_cluster.lua",
      consul_native = "lua/consul_native.lua",
      consul_production_config = "lua/consul_production_config.lua",
      consul_quorum = "lua/consul_quorum.lua",
      ["consul_production.config"] = "lua/consul_production/config.lua",
      ["consul_production.connection"] = "lua/consul_production/connection.lua",
      ["consul_production.data"] = "lua/consul_production/data.lua",
      ["consul_production.health"] = "lua/consul_production/health.lua",
      ["consul_production.log"] = "lua/consul_production/log.lua",
      ["consul_production.manager"] = "lua/consul_production/manager.lua",
      ["consul_production.meta"] = "lua/meta/library/consul_production.d.lua",
      ["consul_production.options"] = "lua/consul_production/options.lua",
      ["consul_production.replicas"] = "lua/consul_production/replicas.lua",
      ["consul_production.session"] = "lua/consul_production/session.lua",
      ["consul_production.sources"] = "lua/consul_production/sources.lua",
      ["consul_production.values"] = "lua/consul_production/values.lua",
    },
  },
}
