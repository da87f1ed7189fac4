-- What the gateway of examples/openresty does with addresses that nginx does not take. The parts of nginx are the
-- spec's own, and refuse what nginx refuses.
local SOURCES = { "ffi", "ngx.balancer", "resty.core.base", "consul_ffi.openresty.views" }

describe("the gateway of the example", function()
  local gateway, list, chosen, logged, exited
  local request_address = 0
  local ngx_before, loaded_before

  before_each(function()
    chosen, logged, exited = {}, {}, nil
    ngx_before, loaded_before = rawget(_G, "ngx"), {}
    for _, name in ipairs(SOURCES) do
      loaded_before[name] = package.loaded[name] or false
    end
    package.loaded["ffi"] = {
      cast = function(_, pointer)
        return pointer
      end,
    }
    package.loaded["resty.core.base"] = {
      get_request = function()
        return request_address
      end,
    }
    package.loaded["ngx.balancer"] = {
      get_last_failure = function() end,
      set_more_tries = function()
        return true
      end,
      set_current_peer = function(address, port)
        if not (address:match("^[%d.]+$") or address:match("^%[[%x:.]+%]$")) then
          return nil, address:find(":", 1, true) and "invalid port" or "no host allowed"
        end
        chosen[#chosen + 1] = address .. ":" .. port
        return true
      end,
    }
    package.loaded["consul_ffi.openresty.views"] = {
      new = function()
        return {
          start = function() end,
          view = function()
            return {
              all = function()
                return list
              end,
            }
          end,
        }
      end,
    }
    rawset(_G, "ngx", {
      now = os.time,
      worker = {
        pid = function()
          return 1
        end,
      },
      config = {
        prefix = function()
          return "/"
        end,
      },
      log = function(_, ...)
        logged[#logged + 1] = table.concat({ ... })
      end,
      exit = function(status)
        exited = status
      end,
    })
    gateway = dofile("examples/openresty/gateway.lua")
  end)

  after_each(function()
    for name, module in pairs(loaded_before) do
      package.loaded[name] = module or nil
    end
    rawset(_G, "ngx", ngx_before)
  end)

  local function request()
    request_address = request_address + 1
    gateway.balance()
  end

  it("sends requests to an IPv6 address", function()
    list = { { address = "fd00::1", port = 80 } }
    gateway.start()
    request()
    assert.same({ "[fd00::1]:80" }, chosen)
  end)

  it("sends requests for an instance with a name to another one, and ejects it", function()
    list = { { address = "a.example", port = 80 }, { address = "10.0.0.1", port = 80 } }
    gateway.start()
    for _ = 1, 20 do
      request()
    end
    assert.equal(20, #chosen)
    assert.is_nil(exited)
    assert.is_true(#logged >= 1 and #logged <= 5, #logged .. " tries")
    assert.matches("a.example:80: no host allowed", logged[1], 1, true)
  end)

  it("reports nothing about a request without an instance", function()
    list = {}
    gateway.start()
    request()
    assert.equal(500, exited)
    gateway.report()
  end)

  it("has no instance when all have names", function()
    list = { { address = "a.example", port = 80 }, { address = "b.example", port = 80 } }
    gateway.start()
    request()
    assert.equal(500, exited)
    assert.same({}, chosen)
    gateway.report()
  end)
end)
