-- The messages of the module in nginx. There a call that blocks the worker blocks all of its requests.
local support = require("spec.support")

describe("a call that blocks", function()
  local WARNING = "a call blocks this nginx worker"

  -- The output of a program in a process with nginx's table `ngx`, in a phase.
  local function run(phase, program)
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(([[
      ngx = { get_phase = function() return %q end }
      local consul_ffi = require("consul_ffi")
      local client = consul_ffi.new({ simulate = true })
      %s
    ]]):format(phase, program))
    file:close()
    local run_it = assert(io.popen(support.interpreter .. " " .. path .. " 2>&1"))
    local printed = run_it:read("*a")
    run_it:close()
    os.remove(path)
    return printed
  end

  local BLOCKING = {
    'client:kv_get("a") client:kv_put("a", "b")',
    'client:batch({ { "kv_get", "a" } }) client:kv_get("a")',
    'client:start("kv_get", "a"):wait() client:kv_get("a")',
    'client:watch("kv_get", "a"):next(10) client:kv_get("a")',
    'client:service_view("web"):ready(10) client:kv_get("a")',
    'client:service_views({ "web" }):next(10) client:kv_get("a")',
    'client:lock("a"):acquire() client:kv_get("a")',
    'client:lock("a"):next_event(10) client:kv_get("a")',
  }

  it("in a request or timer of nginx gives one warning, which names the client that yields #smoke", function()
    for _, program in ipairs(BLOCKING) do
      local printed = run("access", program)
      local _, count = printed:gsub(WARNING, "")
      assert.equal(1, count, program .. "\n" .. printed)
      assert.matches('require("consul_ffi.openresty").new', printed, 1, true)
      assert.matches("in the phase access", printed, 1, true)
    end
    assert.matches(WARNING, run("timer", BLOCKING[1]), 1, true)
  end)

  it("gives none where there is no request, or where it does not wait", function()
    for _, phase in ipairs({ "init", "init_worker", "exit_worker" }) do
      assert.not_matches(WARNING, run(phase, BLOCKING[1]), 1, true)
    end
    local at_once = [[
      local handle, watch = client:start("kv_get", "a"), client:watch("kv_get", "a")
      handle:poll() watch:poll() client:service_view("web"):ready(0) client:lock("a"):poll()
      handle:close() watch:close()
    ]]
    assert.not_matches(WARNING, run("access", at_once), 1, true)
  end)
end)
