-- The gateway of examples/openresty. The parts of nginx are the spec's own, and refuse what nginx refuses.
local SOURCES = { "ffi", "ngx.balancer", "resty.core.base", "consul_ffi.openresty.views" }

describe("the gateway of the example", function()
  local gateway, list, chosen, logged, exited, said
  -- nginx's word about the last attempt, and how many more it was told to make.
  local last_failure, more_tries
  -- Whether there is an answer of Consul, and whether one comes.
  local age_s, is_ready
  -- The global `ngx`, its time, and what a timer does.
  local nginx, now, each_minute
  local request_address = 0
  local ngx_before, loaded_before

  before_each(function()
    chosen, logged, exited, said = {}, {}, nil, {}
    last_failure, more_tries, age_s, is_ready = nil, nil, 1, true
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
      get_last_failure = function()
        return last_failure
      end,
      set_more_tries = function(count)
        more_tries = (more_tries or 0) + count
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
              pick = function()
                return list[1] or false
              end,
              age_s = function()
                return age_s
              end,
              ready = function()
                return is_ready
              end,
            }
          end,
        }
      end,
    }
    now = 100
    nginx = {
      now = function()
        return now
      end,
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
      say = function(line)
        said[#said + 1] = line
      end,
      timer = {
        every = function(_, work)
          each_minute = work
          return true
        end,
      },
      header = {},
      -- Of an attempt without a connection, and of the beginning one.
      var = { upstream_connect_time = "- : " },
    }
    rawset(_G, "ngx", nginx)
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

  -- A request that nginx has answered with this status.
  local function answered(status, times)
    request()
    now = now + 1
    nginx.status, nginx.var.upstream_header_time = status, times
    gateway.report()
  end

  local function shown()
    said = {}
    gateway.show()
    return said
  end

  it("ejects an instance after three answers with 502, 503 or 504, and after none of others", function()
    for _, status in ipairs({ 502, 503, 504, 500, 200, 404, 499 }) do
      list = { { address = "10.0.0.1", port = 80 }, { address = "10.0.0.2", port = 80 } }
      gateway = dofile("examples/openresty/gateway.lua")
      gateway.start()
      for _ = 1, 30 do
        answered(status)
      end
      local states = table.concat(shown(), "\n")
      local is_ejected = states:find("ejected", 1, true) ~= nil
      assert.equal(status >= 502, is_ejected, status)
      assert.equal(status < 502, select(2, states:gsub(" active ", "")) == 2, states)
    end
  end)

  it("tells the age of the list in whole seconds, if there is one", function()
    list, age_s = {}, 7.9
    gateway.start()
    shown()
    assert.equal(7, nginx.header["Age"])
    age_s = false
    shown()
    assert.is_nil(nginx.header["Age"])
  end)

  it("neither forgives nor blames an instance whose client went away, and does not wait for it", function()
    list = { { address = "10.0.0.1", port = 80 } }
    gateway.start()
    answered(502)
    answered(499)
    assert.matches("10.0.0.1:80 doubtful 1.000 of the requests, 0 in flight, 0.0 ms", shown()[1], 1, true)
  end)

  it("reports the response time of the last attempt", function()
    list = { { address = "10.0.0.1", port = 80 } }
    gateway.start()
    answered(200, "0.250")
    assert.matches(" 250.0 ms", shown()[1], 1, true)
    answered(200, "0.001, 0.750")
    assert.matches(" 750.0 ms", shown()[1], 1, true)
    answered(200, "-")
    answered(200, nil)
    assert.matches(" 750.0 ms", shown()[1], 1, true)
  end)

  it("reads no response time that took less than the average in the same tick of the clock", function()
    local reads = 0
    list = { { address = "10.0.0.1", port = 80 } }
    gateway.start()
    nginx.var = setmetatable({}, {
      __index = function()
        reads = reads + 1
        return "0.100"
      end,
    })
    -- The first takes 200 ms, the others 100.
    request()
    local first = request_address
    now = now + 0.1
    request()
    request()
    now, nginx.status = now + 0.1, 200
    gateway.report()
    assert.equal(1, reads)
    request_address = first + 1
    gateway.report()
    assert.equal(1, reads)
    request_address = first
    gateway.report()
    assert.equal(2, reads)
    request()
    now = now + 0.1
    gateway.report()
    assert.equal(3, reads)
  end)

  it("tries two other instances, and no instance twice", function()
    list = {}
    for i = 1, 5 do
      list[i] = { address = "10.0.0." .. i, port = 80 }
    end
    gateway.start()
    request()
    last_failure = "failed"
    gateway.balance()
    gateway.balance()
    assert.equal(2, more_tries)
    table.sort(chosen)
    assert.equal(3, #chosen)
    assert.is_true(chosen[1] ~= chosen[2] and chosen[2] ~= chosen[3])
    nginx.status, nginx.var.upstream_header_time = 200, "0.1, 0.2, 0.3"
    gateway.report()
    local states = table.concat(shown(), "\n")
    assert.equal(2, select(2, states:gsub(" doubtful ", "")), states)
    assert.equal(5, select(2, states:gsub(" 0 in flight", "")), states)
    -- The next request at this address begins again.
    last_failure, chosen = nil, {}
    for _ = 1, 50 do
      gateway.balance()
      gateway.report()
    end
    assert.equal(50, #chosen)
  end)

  it("does not blame an instance for a kept connection that it has closed, and repeats the request there", function()
    list = { { address = "10.0.0.1", port = 80 } }
    gateway.start()
    for _, case in ipairs({
      { "0.000 : ", 0, "active" },
      -- A new connection; none at all; and a list that has been without the instance meanwhile.
      { "0.001 : ", 1, "doubtful" },
      { "- : ", 1, "doubtful" },
      { "0.000 : ", 1, "doubtful", true },
    }) do
      local times, failures, state, is_gone = case[1], case[2], case[3], case[4]
      nginx.status, nginx.var.upstream_header_time, last_failure = 200, "0.1", nil
      request()
      gateway.report()
      if is_gone then
        local instances = list
        list = {}
        each_minute()
        list = instances
      end
      chosen, exited = {}, nil
      request()
      nginx.var.upstream_connect_time, last_failure = times, "failed"
      gateway.balance()
      assert.equal(failures == 0 and 2 or 1, #chosen, times)
      assert.equal(failures == 1 and 500 or nil, exited, times)
      local line = shown()[1]
      assert.matches(" " .. state .. " ", line, 1, true)
      last_failure = nil
      gateway.report()
    end
  end)

  it("reports the instance of each of several requests", function()
    list = { { address = "10.0.0.1", port = 80 }, { address = "10.0.0.2", port = 80 } }
    gateway.start()
    local first = request_address + 1
    for _ = 1, 10 do
      request()
    end
    nginx.status = 200
    for address = first, request_address do
      request_address = address
      gateway.report()
      gateway.report()
    end
    for _, line in ipairs(shown()) do
      assert.matches(" 0 in flight", line, 1, true)
    end
  end)

  it("answers 503 for a request that found no instance when the list is empty, or none comes", function()
    list = {}
    gateway.start()
    gateway.wait()
    assert.equal(503, exited)
    assert.equal(1, nginx.header["Retry-After"])
    exited, age_s, is_ready, list = nil, nil, false, { { address = "10.0.0.1", port = 80 } }
    gateway.wait()
    assert.equal(503, exited)
    exited, is_ready = nil, true
    gateway.wait()
    assert.is_nil(exited)
    -- The list has come meanwhile, and all its instances have failed.
    age_s = 1
    gateway.wait()
    assert.equal(503, exited)
  end)
end)
