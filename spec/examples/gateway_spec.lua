-- The gateway of examples/openresty. The parts of nginx are the spec's own, and refuse what nginx refuses.
local support = require("spec.support")
local clock = require("consul_ffi.balancer.clock")

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
  local ngx_before, loaded_before, random_before

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
              version = function()
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
      -- As nginx has them while the first attempt begins.
      var = { upstream_status = "-", upstream_addr = "" },
    }
    rawset(_G, "ngx", nginx)
    random_before = clock.random_numbers
    -- The same in each run.
    clock.random_numbers = function()
      return support.random_numbers(1)
    end
    gateway = dofile("examples/openresty/gateway.lua")
  end)

  after_each(function()
    for name, module in pairs(loaded_before) do
      package.loaded[name] = module or nil
    end
    rawset(_G, "ngx", ngx_before)
    clock.random_numbers = random_before
  end)

  local function request()
    request_address = request_address + 1
    last_failure = nil
    gateway.balance()
  end

  -- nginx's variables with these statuses and times of the request's attempts, on the chosen instances from `first` on.
  local function attempted(statuses, header_times, connect_times, first)
    nginx.var = {
      upstream_status = statuses, upstream_header_time = header_times, upstream_connect_time = connect_times,
      upstream_addr = table.concat(chosen, ", ", first or #chosen),
    }
  end

  -- The last attempt has failed with this status, and the next one begins.
  local function failed(failure, status, header_time, connect_time)
    last_failure = failure
    attempted(status .. " : ", header_time .. " : ", connect_time .. " : ")
    nginx.var.upstream_addr = nginx.var.upstream_addr .. " : "
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
    attempted(status, times)
    gateway.report()
  end

  local function shown()
    said = {}
    gateway.show()
    return said
  end

  local FAILS = { ["502"] = true, ["503"] = true, ["504"] = true }

  local function start_with(count)
    list = {}
    for i = 1, count do
      list[i] = { address = "10.0.0." .. i, port = 80 }
    end
    gateway = dofile("examples/openresty/gateway.lua")
    gateway.start()
  end

  local function are_ejected(expected, why)
    local states = table.concat(shown(), "\n")
    assert.equal(expected, states:find("ejected", 1, true) ~= nil, why .. "\n" .. states)
    assert.equal(not expected, select(2, states:gsub(" active ", "")) == #list, states)
    assert.equal(#list, select(2, states:gsub(" 0 in flight", "")), states)
  end

  it("ejects an instance after three answers with 502, 503 or 504, and after none of others", function()
    for _, status in ipairs({ "502", "503", "504", "500", "200", "403", "404", "429", "-" }) do
      -- The client's status, as with a page of error_page, is not the instance's.
      for _, seen in ipairs({ 200, 499, 500, 502, 503 }) do
        nginx.status = seen
        start_with(2)
        for _ = 1, 30 do
          answered(status, "0.100")
        end
        are_ejected(FAILS[status] == true, status)
      end
    end
  end)

  it("ejects an instance whose answer is repeated on another one for 502, 503 and 504 alone", function()
    for _, status in ipairs({ "502", "503", "504", "500", "403", "404", "429" }) do
      start_with(2)
      for _ = 1, 30 do
        request()
        failed((status == "403" or status == "404") and "next" or "failed", status, "0.100", "0.000")
        attempted("200", "0.100", "0.000")
        gateway.report()
      end
      are_ejected(FAILS[status] == true, status)
    end
  end)

  it("knows its own attempt among those of other upstreams", function()
    for _, case in ipairs({
      { "503 : 200", "ADDRESS : 10.9.9.9:80", true }, { "200 : 503", "ADDRESS : 10.9.9.9:80", false },
      { "502, 503 : 503, 200", "10.9.9.9:80, 10.9.9.8:80 : 10.9.9.9:80, ADDRESS", false },
      { "500 : -, 503", "10.9.9.9:80 : , ADDRESS", true }, { "500 : 503", " : ADDRESS", true },
      { "503 : 200", "10.9.9.9:80 : 10.9.9.8:80", false },
    }) do
      start_with(2)
      for _ = 1, 30 do
        request()
        nginx.var = {
          upstream_status = case[1], upstream_header_time = case[1],
          upstream_addr = case[2]:gsub("ADDRESS", chosen[#chosen]),
        }
        gateway.report()
      end
      are_ejected(case[3], case[1] .. " of " .. case[2])
    end
  end)

  it("knows its own attempt on an IPv6 address in each spelling", function()
    for _, address in ipairs({ "fd00::a", "[fd00::a]", "FD00::A" }) do
      list = { { address = address, port = 80 } }
      gateway = dofile("examples/openresty/gateway.lua")
      gateway.start()
      request()
      nginx.var = { upstream_status = "503 : 200", upstream_addr = "[fd00::a]:80 : 10.9.9.9:80" }
      gateway.report()
      assert.matches(" doubtful ", shown()[1], 1, true)
    end
  end)

  it("makes as many tries as there are other instances, and not more than three", function()
    for count = 1, 5 do
      for names = 0, 2 do
        more_tries = nil
        start_with(count)
        for i = 1, names do
          table.insert(list, 1, { address = ("web%d.example"):format(i), port = 80 })
        end
        request()
        assert.equal(math.min(2, count - 1), more_tries, count .. " and " .. names)
        -- The same when all have failed.
        for _ = 1, 30 do
          answered("503", "0.100")
        end
        more_tries = nil
        request()
        assert.equal(math.min(2, count - 1), more_tries, count .. " and " .. names)
      end
    end
  end)

  it("reports the instance whose answer leads to the gateway again", function()
    for status, state in pairs({ ["200"] = " active ", ["404"] = " active ", ["503"] = " doubtful " }) do
      start_with(2)
      request()
      local first = chosen[#chosen]
      nginx.var = { upstream_status = status .. " : -", upstream_addr = first .. " : " }
      gateway.balance()
      local states = table.concat(shown(), "\n")
      assert.matches(first .. state, states, 1, true)
      assert.equal(1, select(2, states:gsub(" 1 in flight", "")), states)
      nginx.var = { upstream_status = status .. " : 200", upstream_addr = first .. " : " .. chosen[#chosen] }
      gateway.report()
      assert.equal(2, select(2, table.concat(shown(), "\n"):gsub(" 0 in flight", "")))
    end
  end)

  it("has no subrequest in flight, reported or not, and blames the instances that it has tried", function()
    for _, reported in ipairs({ true, false }) do
      for _, failures in ipairs({ 0, 1, 2 }) do
        for _, status in ipairs({ "200", "404", "500", "503" }) do
          start_with(4)
          nginx.is_subrequest = false
          request()
          local main = request_address
          for _ = 1, 5 do
            nginx.is_subrequest, nginx.ctx = true, {}
            -- At the address of the main request, as that of a released one may be.
            last_failure = nil
            gateway.balance()
            local tried = { chosen[#chosen] }
            for _ = 1, failures do
              failed("failed", "503", "0.001", "0.001")
              tried[#tried + 1] = chosen[#chosen]
            end
            assert.equal(failures + 1, #tried)
            for i = 2, #tried do
              assert.is_true(tried[i] ~= tried[i - 1])
            end
            if reported then
              attempted(status, "0.1", "0.001")
              gateway.report()
            end
          end
          local states = table.concat(shown(), "\n")
          assert.equal(1, select(2, states:gsub(" 1 in flight", "")), states)
          assert.equal(3, select(2, states:gsub(" 0 in flight", "")), states)
          local is_blamed = failures > 0 or reported and status == "503"
          assert.equal(is_blamed, states:find("doubtful") ~= nil or states:find("ejected") ~= nil, states)
          nginx.is_subrequest, request_address = false, main
          attempted("-", "-")
          gateway.report()
          assert.equal(4, select(2, table.concat(shown(), "\n"):gsub(" 0 in flight", "")))
        end
      end
    end
  end)

  it("reports the instance of a request without a report when its request's memory is used again", function()
    start_with(1)
    for _ = 1, 20 do
      gateway.balance()
    end
    assert.matches(" active 1.000 of the requests, 1 in flight", shown()[1], 1, true)
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
    answered("503")
    answered("-")
    assert.matches("10.0.0.1:80 doubtful 1.000 of the requests, 0 in flight, 0.0 ms", shown()[1], 1, true)
  end)

  it("reports the response time of the last attempt", function()
    list = { { address = "10.0.0.1", port = 80 } }
    gateway.start()
    answered("200", "0.250")
    assert.matches(" 250.0 ms", shown()[1], 1, true)
    request()
    now = now + 1
    chosen = { "10.0.0.9:80", "10.0.0.1:80" }
    attempted("502, 200", "0.001, 0.750", "0.000, 0.000", 1)
    gateway.report()
    assert.matches(" 750.0 ms", shown()[1], 1, true)
    answered("200", "-")
    answered("200", nil)
    assert.matches(" 750.0 ms", shown()[1], 1, true)
  end)

  it("takes no time of an answer with a status from 500 on for the instance's speed", function()
    for status = 200, 599 do
      for _, is_repeated in ipairs({ true, false }) do
        start_with(1)
        request()
        if is_repeated then
          failed("failed", tostring(status), "0.003", "0.001")
          attempted("-", "-", "-")
        else
          attempted(tostring(status), "0.003", "0.001")
        end
        gateway.report()
        local has_time = status < 500 and not is_repeated
        assert.matches(has_time and " 3.0 ms" or " 0.0 ms", shown()[1], 1, true, tostring(status))
        local picked = {}
        -- A second instance starts slowly and serves: the first one is not preferred for its fast errors.
        list = { list[1], { address = "10.0.0.2", port = 80 } }
        for _ = 1, not is_repeated and status % 20 == 0 and 200 or 0 do
          now = now + 0.1
          request()
          local name = chosen[#chosen]
          picked[name] = (picked[name] or 0) + 1
          local is_first = name == "10.0.0.1:80"
          attempted(is_first and tostring(status) or "200", is_first and "0.000" or "0.080", "0.001")
          gateway.report()
        end
        local of_first = picked["10.0.0.1:80"] or 0
        assert.is_true(status < 500 or of_first < 150, status .. ": " .. of_first .. " of 200")
      end
    end
  end)

  it("reads no response time that took less than the average in the same tick of the clock", function()
    local reads = 0
    list = { { address = "10.0.0.1", port = 80 } }
    gateway.start()
    nginx.var = setmetatable({}, {
      __index = function(_, name)
        if name == "upstream_status" then
          return "200"
        end
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
    now = now + 0.1
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
    failed("failed", "502", "-", "0.001")
    failed("failed", "504", "-", "0.001")
    assert.equal(2, more_tries)
    attempted("502, 504, 200", "-, -, 0.3", "0.001, 0.001, 0.001", 1)
    table.sort(chosen)
    assert.equal(3, #chosen)
    assert.is_true(chosen[1] ~= chosen[2] and chosen[2] ~= chosen[3])
    gateway.report()
    local states = table.concat(shown(), "\n")
    assert.equal(2, select(2, states:gsub(" doubtful ", "")), states)
    assert.equal(5, select(2, states:gsub(" 0 in flight", "")), states)
    -- The next request at this address begins again.
    chosen = {}
    for _ = 1, 50 do
      last_failure = nil
      gateway.balance()
      gateway.report()
    end
    assert.equal(50, #chosen)
  end)

  it("does not blame an instance for a kept connection that it has closed, and repeats the request there", function()
    list = { { address = "10.0.0.1", port = 80 } }
    gateway.start()
    for _, case in ipairs({
      { "0.000", "active" },
      -- A new connection; none at all; an answer; and a list that has been without the instance meanwhile.
      { "0.001", "doubtful" },
      { "-", "doubtful" },
      { "0.000", "doubtful", header_time = "0.001" },
      { "0.000", "doubtful", is_gone = true },
    }) do
      for _, status in ipairs({ "502", case.header_time and "503" or "502" }) do
        answered("200", "0.1")
        if case.is_gone then
          local instances = list
          list = {}
          each_minute()
          list = instances
        end
        chosen, exited = {}, nil
        request()
        failed("failed", status, case.header_time or "-", case[1])
        -- nginx asks for another attempt on the one instance only if it was on a kept connection.
        assert.same({ "10.0.0.1:80", "10.0.0.1:80" }, chosen)
        assert.is_nil(exited)
        assert.matches(" " .. case[2] .. " ", shown()[1], 1, true)
        attempted("200", "0.1")
        gateway.report()
      end
    end
  end)

  -- The ways of an attempt to fail: nginx's word, its status, and the times of the header and of the connection.
  local WAYS = {
    closed_before_or_after_reading = { "failed", "502", "-", "0.000" }, refused = { "failed", "502", "-", "-" },
    slow_to_connect = { "failed", "502", "-", "0.010" }, timeout = { "failed", "504", "-", "0.000" },
    answer_502 = { "failed", "502", "0.001", "0.000" }, answer_503 = { "failed", "503", "0.001", "0.000" },
  }

  it("forgives only the first of failures in a row on kept connections, repeated or not", function()
    local CLOSED = "closed_before_or_after_reading"
    for first in pairs(WAYS) do
      for second in pairs(WAYS) do
        for _, is_repeated in ipairs({ true, false }) do
          for _, succeeds_between in ipairs({ true, false }) do
            start_with(1)
            -- Ten connections are kept.
            local before = request_address
            for _ = 1, 10 do
              request()
            end
            attempted("200", "0.1", "0.000")
            for address = before + 1, before + 10 do
              request_address = address
              gateway.report()
            end
            request_address = request_address + 10
            local function fails(way)
              request()
              if is_repeated then
                failed(support.unpack(WAYS[way]))
              else
                attempted(WAYS[way][2], WAYS[way][3], WAYS[way][4])
              end
              if is_repeated then
                attempted("-", "-", "-")
              end
              gateway.report()
            end
            fails(first)
            local case = ("%s, %s, repeated %s, success %s"):format(
              first, second, tostring(is_repeated), tostring(succeeds_between))
            assert.matches(first == CLOSED and " active " or " doubtful ", shown()[1], 1, true, case)
            if succeeds_between then
              request()
              attempted("200", "0.1", "0.000")
              gateway.report()
              assert.matches(" active ", shown()[1], 1, true)
            end
            fails(second)
            local is_forgiven = second == CLOSED and succeeds_between
            local state = is_forgiven and " active " or " doubtful "
            assert.matches(state, shown()[1], 1, true, case)
          end
        end
      end
    end
  end)

  it("forgives the requests that were on their way when an instance closed all its connections", function()
    for _, on_their_way in ipairs({ 1, 2, 10 }) do
      start_with(1)
      local before = request_address
      local function each(count, status, header_time, connect_time)
        for address = before + 1, before + count do
          request_address = address
          attempted(status, header_time, connect_time)
          gateway.report()
        end
        before = before + count
        request_address = before
      end
      local function send(count)
        for _ = 1, count do
          request()
        end
        now = now + 0.1
      end
      send(12)
      each(12, "200", "0.1", "0.000")
      send(on_their_way)
      each(on_their_way, "502", "-", "0.000")
      assert.matches(" active ", shown()[1], 1, true, on_their_way)
      -- It has failed, so that a later one counts.
      send(1)
      each(1, "502", "-", "0.000")
      assert.matches(" doubtful ", shown()[1], 1, true, on_their_way)
    end
  end)

  it("ejects an instance that closes each connection, however many are kept", function()
    for _, is_repeated in ipairs({ true, false }) do
      start_with(2)
      local before = request_address
      for _ = 1, 200 do
        request()
      end
      for address = before + 1, before + 200 do
        request_address = address
        attempted("200", "0.1", "0.000", address - before)
        nginx.var.upstream_addr = chosen[address - before]
        gateway.report()
      end
      local lost = 0
      for _ = 1, 100 do
        request()
        if chosen[#chosen] == "10.0.0.1:80" then
          lost = lost + 1
          if is_repeated then
            failed("failed", "502", "-", "0.000")
            assert.equal("10.0.0.2:80", chosen[#chosen])
            attempted("200", "0.1", "0.000")
          else
            attempted("502", "-", "0.000")
          end
        else
          attempted("200", "0.1", "0.000")
        end
        gateway.report()
      end
      -- The first says nothing, and three more eject it.
      assert.equal(4, lost)
    end
  end)

  it("gives a new instance its part of sessions that last for hours", function()
    start_with(2)
    answered("200", "0.1")
    answered("200", "0.1")
    for _ = 1, 20 do
      request()
      now = now + 60
    end
    list = { list[1], list[2], { address = "10.0.0.3", port = 80 } }
    for _ = 1, 40 do
      now = now + 60
      request()
    end
    for _, line in ipairs(shown()) do
      local in_flight = tonumber(line:match("(%d+) in flight"))
      assert.is_true(in_flight >= 18 and in_flight <= 22, line)
    end
  end)

  it("reports the instance of each of several requests", function()
    list = { { address = "10.0.0.1", port = 80 }, { address = "10.0.0.2", port = 80 } }
    gateway.start()
    local first = request_address + 1
    for _ = 1, 10 do
      request()
    end
    nginx.var.upstream_status = "200"
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
