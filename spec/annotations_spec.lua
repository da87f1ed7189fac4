-- The annotations for language servers have the types that programs see: spec/seen_types.lua compares them with all
-- arguments and results while other specs and examples run. On one engine, with the simulated agent.
local support = require("spec.support")

-- Quick ones, which call most of the functions; of the client all.
local RUNS = {
  "examples/debug_consul_ffi.lua", "examples/demo.lua", "examples/ha_cluster_example.lua",
  "examples/consul_production_example.lua", "spec/consul_ffi/endpoints", "spec/consul_ffi/calls/batch_spec.lua",
  "spec/consul_ffi/calls/handle_spec.lua", "spec/consul_ffi/ring_spec.lua", "spec/consul_ffi/simulator_spec.lua",
  "spec/consul_ffi/watches/view_spec.lua", "spec/etcd/etcd_ffi_spec.lua",
}

local LEAST_CALLED = 240

local is_compared = rawget(_G, "jit") and support.simulated

describe("the annotations", function()
  (is_compared and it or pending)("have the types of arguments and results that a run of the specs sees", function()
    local command = "busted --lua=%s --output=TAP --helper=spec/seen_types.lua %s 2>&1"
    local run = assert(io.popen(command:format(support.interpreter, table.concat(RUNS, " "))))
    local differences, called, last = {}, nil, {}
    for line in run:lines() do
      table.insert(last, line)
      if #last > 20 then
        table.remove(last, 1)
      end
      local difference = line:match("^TYPES (.*)")
      called = called or line:match("^TYPES (%d+) of %d+ functions were called")
      if difference and not difference:find("^NOT CALLED") and not difference:find("^%d+ of ") then
        differences[#differences + 1] = difference
      end
    end
    run:close()
    assert.same({}, differences)
    assert.is_string(called, "the run ended early, after: " .. table.concat(last, "\n"))
    assert.is_true(tonumber(called) >= LEAST_CALLED, tostring(called) .. " functions were called")
  end)
end)
