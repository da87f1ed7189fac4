-- etcd_ha: clusters of old programs.
local etcd_ha = require("etcd_ha")
local support = require("spec.support")

describe("etcd_ha", function()
  local prefix, opened

  before_each(function()
    prefix, opened = support.name("etcd_ha"), {}
  end)

  after_each(function()
    support.clean_up(opened, prefix)
  end)

  -- Returns a node as old programs create it, with a prefix of this test.
  local function node(id)
    local made = etcd_ha.new({
      node_id = id,
      node_address = "127.0.0.1:9000",
      etcd_endpoints = { "http://127.0.0.1:2379" },
      nodes_prefix = "/" .. prefix .. "/nodes/",
      simulate = support.simulated,
    })
    opened[#opened + 1] = made
    return made
  end

  it("creates nodes of consul_ha_cluster, which find each other #smoke", function()
    local one, two = node("n1"), node("n2")
    assert.is_true(one:start())
    assert.is_true(two:start())
    support.eventually(function()
      support.sleep_ms(20)
      for _, each in ipairs({ one, two }) do
        if each:get_node_count() ~= 2 or #each:get_live_nodes() ~= 2 or not each:get_leader_info() then
          return false
        end
      end
      return true
    end)
    assert.equal("n1", one:get_leader_info().node_id)
    assert.is_true(one:is_leader_node())
    assert.is_false(two:is_leader_node())
    assert.is_true(two:stop())
    assert.is_true(one:stop())
  end)

  it("raises at the caller's line for invalid options", function()
    for text, config in pairs({
      ["etcd_ha.new: \"127.0.0.1:2379\" has etcd's port"] = { consul_endpoint = "127.0.0.1:2379" },
      ["node_id"] = { consul_endpoint = "127.0.0.1:8500" },
    }) do
      local _, message = pcall(function()
        etcd_ha.new(config)
      end)
      assert.matches("etcd_ha_spec.lua:%d+: ", message)
      assert.matches(text, message, 1, true)
    end
  end)
end)
