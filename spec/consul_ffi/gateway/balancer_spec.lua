-- The balancer, on a clock and random numbers of its own.
local balancer = require("consul_ffi.balancer")
local random_numbers = require("spec.support").random_numbers

-- Returns a list of instances with the weights.
local function instances(weights, zone)
  local list = {}
  for i, weight in ipairs(weights) do
    local host = (zone or "web") .. "-" .. i
    list[i] = { id = host, address = host, port = 80, weight = weight, meta = { zone = zone } }
  end
  return list
end

local function equal(count, zone)
  local weights = {}
  for i = 1, count do
    weights[i] = 1
  end
  return instances(weights, zone)
end

local function joined(...)
  local all = {}
  for _, list in ipairs({ ... }) do
    for _, instance in ipairs(list) do
      all[#all + 1] = instance
    end
  end
  return all
end

-- The hashes of the first characters of a text, by their number.
local HASHES = {
  [0] = 0, [1] = 2826400152, [3] = 1216441656, [7] = 3954876200, [8] = 3810458496, [9] = 233558588,
  [15] = 2059895192, [16] = 1419910774, [17] = 855841412, [18] = 2491479926, [24] = 3594220208,
  [25] = 2578799168, [26] = 2249059328, [36] = 2897557889,
}

describe("a balancer", function()
  local time

  before_each(function()
    time = 1000
  end)

  local function new(list, options)
    local given = {
      now = function()
        return time
      end,
      random = random_numbers(17),
    }
    for name, value in pairs(options or {}) do
      given[name] = value
    end
    return balancer.new(list, given)
  end

  -- Picks `count` times and reports success; returns how often each instance was picked, by id.
  local function counts(web, count, step)
    local picked = {}
    for i = 1, count do
      time = time + (step or 0)
      local instance = assert(web:pick("key " .. i))
      picked[instance.id] = (picked[instance.id] or 0) + 1
      web:report(instance, true, 5)
    end
    return picked
  end

  -- Picks until the instance comes, and reports it; others succeed. Returns whether it came within a hundred picks.
  local function report_next(web, id, succeeded)
    for i = 1, 100 do
      local instance = assert(web:pick("key " .. i))
      web:report(instance, instance.id ~= id or succeeded, 5)
      if instance.id == id then
        return true
      end
    end
    return false
  end

  local function state(web, id)
    for _, status in ipairs(web:status()) do
      if status.instance.id == id then
        return status.state, status
      end
    end
  end

  local function eject(web, id)
    for _ = 1, 3 do
      assert.is_true(report_next(web, id, false))
    end
    assert.are.equal("ejected", (state(web, id)))
  end

  describe("picks round robin", function()
    it("in shares within 2 % of the weights over 100,000 picks", function()
      local list = instances({ 1, 2, 3, 5, 8, 13, 21, 1, 1, 100 })
      local picked = counts(new(list), 100000)
      for _, instance in ipairs(list) do
        local share = picked[instance.id] / 100000 / (instance.weight / 155)
        assert.is_true(share > 0.98 and share < 1.02, instance.id .. " has " .. share)
      end
    end)

    it("smoothly: of weights 5, 1 and 1 seven in a row have five of the first, and not five in succession", function()
      local web, row = new(instances({ 5, 1, 1 })), {}
      for i = 1, 70 do
        row[i] = web:pick().id
      end
      for first = 1, 64 do
        local of_first, others_in_five = 0, false
        for i = first, first + 6 do
          of_first = of_first + (row[i] == "web-1" and 1 or 0)
          others_in_five = others_in_five or i < first + 5 and row[i] ~= "web-1"
        end
        assert.are.equal(5, of_first)
        assert.is_true(others_in_five)
      end
    end)

    it("starting at different instances in different processes", function()
      local firsts, different = {}, 0
      for seed = 1, 50 do
        local id = new(equal(10), { random = random_numbers(seed * 7919) }):pick().id
        different = different + (firsts[id] and 0 or 1)
        firsts[id] = true
      end
      assert.is_true(different > 5, different .. " different ones")
    end)

    it("an instance of weight 0 only if there is no other", function()
      local web = new(instances({ 0, 1 }))
      assert.are.same({ ["web-2"] = 50 }, counts(web, 50))
      assert.are.same({ ["web-1"] = 25, ["web-2"] = 25 }, counts(new(instances({ 0, 0 })), 50))
    end)
  end)

  describe("with the policy least_time", function()
    -- Requests arrive at random on instances that serve one request after the other, one of them ten times slower.
    -- Returns the response time at the 99th percentile, in ms.
    local function p99(policy)
      local web, random = new(equal(10), { policy = policy }), random_numbers(5)
      local free_at, pending, times = {}, {}, {}
      -- 10,000 requests at 300 a second; an instance serves 100 a second, the slow one 10.
      for n = 1, 10000 do
        time = time - math.log(1 - random()) / 300
        table.sort(pending, function(one, other)
          return one.ends < other.ends
        end)
        local now = time
        while pending[1] and pending[1].ends <= now do
          local done = table.remove(pending, 1)
          time = done.ends
          web:report(done.instance, true, (done.ends - done.began) * 1000)
        end
        time = now
        local instance = web:pick()
        local takes = (instance.id == "web-1" and 0.1 or 0.01) * (0.5 + random())
        local ends = math.max(free_at[instance.id] or 0, now) + takes
        free_at[instance.id] = ends
        pending[#pending + 1] = { instance = instance, began = now, ends = ends }
        times[n] = (ends - now) * 1000
      end
      table.sort(times)
      return times[9900]
    end

    it("has half of round robin's response time at p99 or less, with one slow instance of ten", function()
      local slow, fast = p99("round_robin"), p99("least_time")
      assert.is_true(fast * 2 < slow, ("%.1f ms, round robin %.1f ms"):format(fast, slow))
    end)

    it("picks in shares near the weights while all answer alike", function()
      local list = instances({ 1, 2, 3, 4 })
      local picked = counts(new(list, { policy = "least_time" }), 100000)
      for _, instance in ipairs(list) do
        local share = picked[instance.id] / 100000 / (instance.weight / 10)
        assert.is_true(share > 0.96 and share < 1.04, instance.id .. " has " .. share)
      end
    end)

    it("counts requests in flight, by weight", function()
      for weight = 1, 3 do
        local list = instances({ 1, weight })
        local web = new(list, { policy = "least_time" })
        web:report(list[1], true, 10)
        web:report(list[2], true, 10)
        for _ = 1, 40 * (1 + weight) do
          web:pick()
        end
        local in_flight = web:status()[1].in_flight
        assert.is_true(in_flight >= 38 and in_flight <= 42, in_flight .. " in flight")
      end
    end)

    it("gives an instance without an average as many requests at once as others, and not more", function()
      -- Some join known ones, or all are new, as after a reload; of the requests some or all are held.
      for known = 0, 3 do
        for held = 0.25, 1, 0.25 do
          local list, all, random = equal(known), equal(4), random_numbers(3)
          local web = new(list, { policy = "least_time" })
          for i = 1, known do
            web:report(list[i], true, 20)
          end
          for i = known + 1, 4 do
            list[i] = all[i]
          end
          time = time + 1
          for _ = 1, 400 do
            local instance = web:pick()
            if random() >= held then
              web:report(instance, nil)
            end
          end
          local least, most = math.huge, 0
          for _, status in ipairs(web:status()) do
            least, most = math.min(least, status.in_flight), math.max(most, status.in_flight)
          end
          assert.is_true(most - least <= 5, ("%d known, %.2f held: %d to %d"):format(known, held, least, most))
        end
      end
    end)

    it("gives no more requests at once to an instance that never answers than others have", function()
      for waiting = 1, 10 do
        local list = equal(4)
        local web, ends = new(list, { policy = "least_time" }), {}
        for i = 2, 4 do
          web:report(list[i], true, 20)
        end
        for _ = 1, 1000 do
          local instance = web:pick()
          if instance ~= list[1] then
            table.insert(ends, instance)
          end
          if #ends > 3 * waiting then
            web:report(table.remove(ends, 1), true, 20)
          end
        end
        local silent = web:status()[1].in_flight
        assert.is_true(silent >= 1 and silent <= 2 * waiting + 3, silent .. " of " .. waiting)
      end
    end)

    it("tries a slow instance again when its average has decayed", function()
      local list = equal(2)
      local web = new(list, { policy = "least_time" })
      web:report(list[1], true, 10000)
      web:report(list[2], true, 10)
      assert.is_nil(counts(web, 100)["web-1"])
      local picked = counts(web, 1000, 0.1)
      assert.is_true(picked["web-1"] > 0)
    end)

    it("needs the time of an answer unless its bound says that the average stays", function()
      local list = equal(2)
      local web = new(list, { policy = "least_time" })
      assert.is_true(web:needs_ms(list[1], 1))
      web:report(list[1], true, 20)
      assert.is_false(web:needs_ms(list[1], 20))
      assert.is_true(web:needs_ms(list[1], 20.5))
      assert.is_true(web:needs_ms(list[2], 1))
      for _, succeeded in ipairs({ true, false }) do
        web:report(list[1], succeeded, 5)
        assert.are.equal(20, web:status()[1].ms)
      end
      time = time + 1
      assert.is_true(web:needs_ms(list[1], 5))
      web:report(list[1], true, 5)
      assert.is_true(math.abs(web:status()[1].ms - (5 + 15 * math.exp(-0.1))) < 1e-9)
      assert.is_false(web:needs_ms({ address = "left", port = 80 }, 5))
    end)

    it("needs no time with another policy", function()
      local list = equal(2)
      for _, policy in ipairs({ "round_robin", "hash" }) do
        assert.is_false(new(list, { policy = policy }):needs_ms(list[1], 5))
      end
    end)

    it("does not prefer an instance that fails fast", function()
      local list = equal(2)
      local web = new(list, { policy = "least_time", max_failures = 1000 })
      web:report(list[1], true, 20)
      web:report(list[2], true, 20)
      for _ = 1, 20 do
        web:report(list[1], false, 1)
      end
      assert.are.equal(20, web:status()[1].ms)
    end)

    -- Requests at the same time. The first instance answers this part of its requests with errors, after this
    -- time; the others take 30 ms. Returns the part of the requests that the first one gets.
    local function part_of_faulty(count, at_once, errors, error_ms, succeeded)
      local list, random = equal(count), random_numbers(11)
      local web = new(list, { policy = "least_time", max_ejected = 0 })
      local pending, picked = {}, 0
      for n = 1, 4000 do
        while #pending >= at_once do
          local first = 1
          for i = 2, #pending do
            first = pending[i].ends < pending[first].ends and i or first
          end
          local done = table.remove(pending, first)
          time = math.max(time, done.ends)
          web:report(done.instance, not done.is_error or succeeded, done.ms, done.is_error)
        end
        local instance = web:pick()
        local is_error = instance == list[1] and random() < errors
        local ms = is_error and error_ms or 30
        table.insert(pending, { instance = instance, ends = time + ms / 1000, ms = ms, is_error = is_error })
        picked = picked + (n > 400 and instance == list[1] and 1 or 0)
      end
      return picked / 3600
    end

    it("gives an instance that answers errors at once its share at most, and tries it again", function()
      for _, count in ipairs({ 2, 3, 10 }) do
        for _, at_once in ipairs({ 1, 10, 40 }) do
          for _, errors in ipairs({ 0.5, 0.9, 1 }) do
            for _, ms in ipairs({ 0, 1, 30 }) do
              for _, succeeded in ipairs({ true, false }) do
                local part = part_of_faulty(count, at_once, errors, ms, succeeded) * count
                local case = ("%d at %d: %.1f errors in %d ms: %.2f"):format(count, at_once, errors, ms, part)
                assert.is_true(part > 0 and part < 1.2, case)
              end
            end
          end
        end
      end
    end)

    it("gives an instance with slow errors less than its share", function()
      for _, at_once in ipairs({ 10, 40 }) do
        local part = part_of_faulty(3, at_once, 1, 3000, true) * 3
        assert.is_true(part < 0.5, at_once .. " at once: " .. part)
      end
    end)

    it("picks the faster instance while all have as many errors", function()
      local list, random = equal(2), random_numbers(7)
      local web = new(list, { policy = "least_time" })
      local picked = 0
      for _ = 1, 1000 do
        time = time + 0.001
        local instance = web:pick()
        picked = picked + (instance == list[1] and 1 or 0)
        local is_error = random() < 0.5
        web:report(instance, true, is_error and 0 or instance == list[1] and 5 or 500, is_error)
      end
      assert.is_true(picked > 800, picked .. " of 1000")
    end)

    it("gives an instance that hangs few requests more if the others answer errors", function()
      for _, errors in ipairs({ 0, 0.05, 0.2, 0.4 }) do
        for _, is_new in ipairs({ true, false }) do
          local list, random = equal(4), random_numbers(3)
          local web = new(list, { policy = "least_time" })
          for _, instance in ipairs(is_new and {} or list) do
            web:report(instance, true, 20)
          end
          local pending, lost = {}, 0
          for _ = 1, 1000 do
            time = time + 0.05
            while pending[1] and pending[1].ends <= time do
              local done = table.remove(pending, 1)
              web:report(done.instance, true, 20, random() < errors)
            end
            local instance = web:pick()
            if instance == list[4] then
              lost = lost + 1
            else
              table.insert(pending, { instance = instance, ends = time + 0.02 })
            end
          end
          local case = ("errors %.2f, new %s: %d of 1000"):format(errors, tostring(is_new), lost)
          assert.is_true(lost <= (is_new and 8 or 150), case)
        end
      end
    end)

    it("knows no time of an instance that has only failed", function()
      local list = equal(2)
      local web = new(list, { policy = "least_time" })
      web:report(list[1], false, 1)
      assert.is_nil(web:status()[1].ms)
      web:report(list[1], true, 20)
      web:report(list[1], false, 30)
      assert.are.equal(30, web:status()[1].ms)
    end)

    it("spreads the requests in flight also among instances that answer in less than nginx can measure", function()
      local list = equal(2)
      local web = new(list, { policy = "least_time" })
      web:report(list[1], true, 0)
      web:report(list[2], true, 0)
      for _ = 1, 101 do
        web:pick()
      end
      assert.is_true(math.abs(web:status()[1].in_flight - 50) <= 1, web:status()[1].in_flight)
    end)

    it("avoids an instance that was slow in the same tick of the clock", function()
      local list = equal(2)
      local web = new(list, { policy = "least_time" })
      web:report(list[1], true, 10)
      web:report(list[2], true, 10)
      time = time + 1
      counts(web, 10) -- with averages of this tick
      web:report(list[1], true, 10000)
      assert.is_nil(counts(web, 100)["web-1"])
    end)
  end)

  describe("with the policy hash", function()
    it("picks the same instance for a key, in every process and whatever the order of the list", function()
      local list = equal(10)
      local reversed = {}
      for i = 1, 10 do
        reversed[i] = list[11 - i]
      end
      local one, other = new(list, { policy = "hash" }), new(reversed, { policy = "hash" })
      for i = 1, 1000 do
        local picked = one:pick("user " .. i)
        assert.are.equal(picked, other:pick("user " .. i))
        one:report(picked, true)
        other:report(picked, true)
      end
    end)

    local function owners(web)
      local found = {}
      for i = 1, 5000 do
        local instance = web:pick("user " .. i)
        found[i] = instance.id
        web:report(instance, true)
      end
      return found
    end

    it("moves only the keys of an instance that leaves the list or is ejected, and moves them back", function()
      local list = equal(10)
      local web = new(list, { policy = "hash" })
      local before = owners(web)
      local gone = table.remove(list, 4)
      time = time + 1
      local without = owners(web)
      table.insert(list, gone)
      time = time + 1
      assert.are.same(before, owners(web))
      eject(web, gone.id)
      assert.are.same(without, owners(web))
      for i, id in ipairs(without) do
        assert.are_not.equal(gone.id, id)
        assert.is_true(before[i] == id or before[i] == gone.id)
      end
    end)

    it("moves keys when a weight changes", function()
      local list = equal(4)
      local web = new(list, { policy = "hash" })
      local before = owners(web)
      list[1] = { id = "web-1", address = "web-1", port = 80, weight = 4 }
      time = time + 1
      local after = owners(web)
      local moved = 0
      for i, id in ipairs(after) do
        moved = moved + (before[i] ~= id and 1 or 0)
        assert.is_true(before[i] == id or id == "web-1")
      end
      assert.is_true(moved > 1000, moved .. " moved")
    end)

    it("gives an instance keys in proportion to its weight", function()
      local found, of = owners(new(instances({ 1, 2, 3, 4 }), { policy = "hash" })), {}
      for _, id in ipairs(found) do
        of[id] = (of[id] or 0) + 1
      end
      for i = 1, 4 do
        local share = of["web-" .. i] / 5000 / (i / 10)
        assert.is_true(share > 0.75 and share < 1.25, i .. " has " .. share)
      end
    end)

    -- Fills and drains with keys; few of them are most of the requests. Calls `check` with the load of the picked
    -- instance, with the new request, and the mean at that moment.
    local function load_with_hot_keys(factor, check)
      local web = new(equal(10), { policy = "hash", load_factor = factor })
      local random, loads, pending, all = random_numbers(3), {}, {}, 0
      for n = 1, 20000 do
        -- Between 0 and 400 in flight, in turn.
        local wanted = 200 + 200 * math.sin(n / 500)
        while all > wanted do
          local done = table.remove(pending, math.floor(random() * all) + 1)
          loads[done.id], all = loads[done.id] - 1, all - 1
          web:report(done, true, 1)
        end
        local instance = web:pick("key " .. math.floor(1 / (random() + 0.001)))
        loads[instance.id], all = (loads[instance.id] or 0) + 1, all + 1
        pending[#pending + 1] = instance
        check(loads[instance.id], all / 10)
      end
    end

    it("never gives an instance more than 1.25 times the mean load, or the next integer above the mean", function()
      local full = 0
      load_with_hot_keys(nil, function(load, mean)
        assert.is_true(load <= 1.25 * mean or load < mean + 1, ("%d in flight, the mean is %.2f"):format(load, mean))
        assert.is_true(load <= 1.25 * mean or mean < 4)
        full = full + (load + 1 > 1.25 * mean and mean >= 4 and 1 or 0)
      end)
      -- The bound was reached, and without it the load would be far above.
      assert.is_true(full > 100, full .. " times at the bound")
      local most = 0
      load_with_hot_keys(100, function(load, mean)
        most = math.max(most, mean >= 4 and load / mean or 0)
      end)
      assert.is_true(most > 2, "without the bound " .. most)
    end)

    it("does not count a request forever that is never reported", function()
      local list = equal(4)
      local web = new(list, { policy = "hash", report_within_s = 30 })
      local first = web:pick("user")
      for _ = 1, 40 do
        web:pick("user")
      end
      local function in_flight()
        local total = 0
        for _, status in ipairs(web:status()) do
          total = total + status.in_flight
        end
        return total
      end
      assert.are.equal(41, in_flight())
      time = time + 31
      assert.are.equal(41, in_flight())
      time = time + 31
      assert.are.equal(0, in_flight())
      web:report(first, true, 1)
      assert.are.equal(0, in_flight())
      assert.are.equal(first, web:pick("user"))
    end)

    it("counts the requests of now when those of before were answered late", function()
      for _, policy in ipairs({ "hash", "least_time" }) do
        local web = new(equal(2), { policy = policy, report_within_s = 30 })
        local late = { web:pick("user"), web:pick("user") }
        time = time + 31
        web:status()
        for _, instance in ipairs(late) do
          web:report(instance, true, 1)
        end
        web:pick("user")
        web:pick("user")
        time = time + 31
        local states = web:status()
        assert.are.equal(2, states[1].in_flight + states[2].in_flight)
      end
    end)

    it("bounds the load as before when the list has changed", function()
      local tables = equal(4)
      local source = {
        all = function()
          return tables
        end,
      }
      local web = new(source, { policy = "hash" })
      for i = 1, 400 do
        web:pick("key " .. i)
      end
      local before = {}
      for i = 1, 20 do
        local instance = web:pick("user " .. i)
        before[i] = instance.id
        web:report(instance, true, 1)
      end
      tables, time = equal(4), time + 1
      for i = 1, 20 do
        local instance = web:pick("user " .. i)
        assert.are.equal(before[i], instance.id)
        web:report(instance, true, 1)
      end
    end)

    it("bounds the load by the requests that still count", function()
      local web = new(equal(2), { policy = "hash", report_within_s = 30 })
      for _ = 1, 40 do
        web:pick("user")
      end
      time = time + 31
      web:status()
      time = time + 31
      for _ = 1, 8 do
        web:pick("user")
      end
      local states = web:status()
      assert.are.equal(8, states[1].in_flight + states[2].in_flight)
      assert.are.equal(5, math.max(states[1].in_flight, states[2].in_flight))
    end)

    it("hashes a text to the same value in every process and on every engine", function()
      local hash = require("consul_ffi.balancer.text_hash")
      local text = "0123456789abcdefghijklmnopqrstuvwxyz"
      for length, value in pairs(HASHES) do
        assert.are.equal(value, hash(text:sub(1, length)), length)
      end
    end)

    it("picks at random without a key", function()
      local web, picked = new(equal(4), { policy = "hash" }), {}
      for _ = 1, 100 do
        picked[web:pick().id] = true
      end
      for i = 1, 4 do
        assert.is_true(picked["web-" .. i])
      end
    end)
  end)

  for _, policy in ipairs({ "round_robin", "least_time", "hash" }) do
    describe("with the policy " .. policy, function()
      it("gives a dead instance at most five requests before it is ejected, and others all that follow", function()
        local web, dead = new(equal(10), { policy = policy }), 0
        for i = 1, 2000 do
          time = time + 0.001
          local key, tried = "key " .. i, {}
          local instance = web:pick(key)
          while instance.id == "web-7" do
            dead = dead + 1
            web:report(instance, false, 0)
            tried[#tried + 1] = instance
            instance = assert(web:pick(key, tried))
          end
          web:report(instance, true, 5)
        end
        assert.is_true(dead >= 1 and dead <= 5, dead .. " requests")
      end)

      it("picks another instance for a request that tried some, until it has tried all", function()
        local web = new(equal(5), { policy = policy })
        local tried, seen = {}, {}
        for i = 1, 5 do
          local instance = assert(web:pick("a key", tried))
          assert.is_nil(seen[instance.id])
          seen[instance.id], tried[i] = true, instance
        end
        local instance, message, err = web:pick("a key", tried)
        assert.is_false(instance)
        assert.are.equal("the request has tried all 5 instances", message)
        assert.are.equal("not_found", err.kind)
      end)
    end)
  end

  it("picks by its policy also for a request that tried some", function()
    local list = instances({ 1, 1, 2 })
    local web, picked = new(list), {}
    for _ = 1, 300 do
      local instance = assert(web:pick(nil, { list[1] }))
      picked[instance.id] = (picked[instance.id] or 0) + 1
    end
    assert.is_true(picked["web-2"] >= 75 and picked["web-3"] > picked["web-2"], picked["web-2"] .. " of 300")
  end)

  describe("ejects", function()
    it("an instance after failures in a row, not after as many with a success between them", function()
      local web = new(equal(4))
      for _ = 1, 5 do
        report_next(web, "web-2", false)
        report_next(web, "web-2", false)
        report_next(web, "web-2", true)
        assert.are.equal("active", (state(web, "web-2")))
      end
      eject(web, "web-2")
      assert.is_nil(counts(web, 100)["web-2"])
    end)

    it("nothing for requests whose result is unknown, which end nevertheless", function()
      local web = new(equal(2), { policy = "hash" })
      local instance = web:pick("a")
      for _ = 1, 2 do
        web:report(instance, false)
        web:report(instance, nil, 5)
      end
      assert.are.equal("doubtful", (state(web, instance.id)))
      web:report(instance, false)
      assert.are.equal("ejected", (state(web, instance.id)))
      web:report(web:pick("a"), nil, 5)
      assert.are.equal(0, web:status()[1].in_flight + web:status()[2].in_flight)
    end)

    it("nothing for failures that are more than ten seconds apart", function()
      local web = new(equal(4))
      for _ = 1, 5 do
        assert.is_true(report_next(web, "web-2", false))
        time = time + 10.1
      end
      assert.are.equal("active", (state(web, "web-2")))
    end)

    it("for longer each time, up to five minutes, with one request as a probe in between", function()
      local web = new(equal(4))
      eject(web, "web-2")
      for n = 1, 40 do
        local lasts = math.min(10 * n, 300)
        time = time + lasts - 0.1
        assert.is_false(report_next(web, "web-2", false))
        time = time + 0.2
        assert.is_true(report_next(web, "web-2", false))
        assert.are.equal("ejected", (state(web, "web-2")))
      end
    end)

    it("no request but the probe until it is answered, then it takes its share", function()
      local web = new(equal(4))
      eject(web, "web-2")
      time = time + 10.1
      local probe
      for _ = 1, 100 do
        local instance = web:pick()
        if instance.id == "web-2" then
          assert.is_nil(probe)
          probe = instance
        end
      end
      web:report(probe, true, 5)
      assert.are.equal(25, counts(web, 100)["web-2"])
    end)

    it("and probes again ten seconds after a probe that was never reported", function()
      local web = new(equal(4))
      eject(web, "web-2")
      time = time + 10.1
      for _ = 1, 3 do
        local probes = 0
        for _ = 1, 100 do
          probes = probes + (web:pick().id == "web-2" and 1 or 0)
        end
        assert.are.equal(1, probes)
        time = time + 10.1
      end
    end)

    it("for as long as the first time after an instance was healthy for a while", function()
      local web = new(equal(4))
      eject(web, "web-2")
      time = time + 10.1
      report_next(web, "web-2", false) -- the second time, for 20 s
      time = time + 20.1
      report_next(web, "web-2", true)
      time = time + 30
      eject(web, "web-2")
      time = time + 10.1
      assert.is_true(report_next(web, "web-2", true))
    end)

    it("for longer again after an instance was healthy for less than ten seconds", function()
      local web = new(equal(4))
      eject(web, "web-2")
      time = time + 10
      report_next(web, "web-2", true)
      time = time + 9
      eject(web, "web-2")
      time = time + 19.9
      assert.is_false(report_next(web, "web-2", true))
      time = time + 0.1
      assert.is_true(report_next(web, "web-2", true))
    end)

    it("up to half of the instances, of which each failure counts again when there is room", function()
      local web = new(equal(6))
      for i = 1, 5 do
        for _ = 1, 3 do
          report_next(web, "web-" .. i, false)
        end
      end
      local ejected = 0
      for _, status in ipairs(web:status()) do
        ejected = ejected + (status.state == "ejected" and 1 or 0)
      end
      assert.are.equal(3, ejected)
      assert.is_nil(counts(web, 90)["web-1"])
    end)

    it("no instance for one failure after it has answered, when there was no room to eject it before", function()
      local list = equal(2)
      local web = new(list, { ejection_s = 1 })
      for _ = 1, 3 do
        web:report(list[1], false)
        web:report(list[2], false)
      end
      assert.are.same({ "ejected", "active" }, { web:status()[1].state, web:status()[2].state })
      web:report(list[2], true)
      time = time + 2
      assert.is_true(report_next(web, "web-1", true))
      web:report(list[2], false)
      assert.are.same({ "active", "doubtful" }, { web:status()[1].state, web:status()[2].state })
    end)

    it("one of few instances even if it is a greater share than may be", function()
      local web = new(equal(3), { max_ejected = 0.1 })
      eject(web, "web-2")
      for _ = 1, 3 do
        report_next(web, "web-1", false)
      end
      assert.are.equal("active", (state(web, "web-1")))
    end)

    it("never the only instance, and none with max_ejected = 0", function()
      local alone, all = new(equal(1)), new(equal(4), { max_ejected = 0 })
      for _ = 1, 20 do
        report_next(alone, "web-1", false)
        report_next(all, "web-1", false)
      end
      assert.are.equal("active", (state(alone, "web-1")))
      assert.are.equal("active", (state(all, "web-1")))
    end)

    it("and one that is doubtful gets few requests until it answers", function()
      local web = new(equal(2))
      local failing = web:pick()
      web:report(failing, false)
      local of_failing = 0
      for _ = 1, 100 do
        of_failing = of_failing + (web:pick() == failing and 1 or 0)
      end
      assert.are.equal(2, of_failing)
      web:report(failing, true)
      assert.are.equal("active", (state(web, failing.id)))
    end)
  end)

  describe("starts slowly", function()
    it("with an instance that joins, not with those of the first list", function()
      local list = equal(3)
      local web = new(list, { slow_start_s = 30 })
      assert.are.equal(100, counts(web, 300)["web-1"])
      list[4] = { id = "web-4", address = "web-4", port = 80 }
      time = time + 1
      local early = counts(web, 1000)["web-4"]
      time = time + 15
      local middle = counts(web, 1000)["web-4"]
      time = time + 15
      local late = counts(web, 1000)["web-4"]
      -- A tenth of a share at first, then half of one, then a whole one.
      assert.is_true(early > 25 and early < 40, early .. " at first")
      assert.is_true(middle > 130 and middle < 160, middle .. " in the middle")
      assert.are.equal(250, late)
    end)

    it("with an instance that comes back from an ejection", function()
      local web = new(equal(4), { slow_start_s = 30 })
      eject(web, "web-2")
      time = time + 10.1
      report_next(web, "web-2", true)
      time = time + 1
      local picked = counts(web, 1000)["web-2"]
      assert.is_true(picked > 25 and picked < 60, picked .. " of 1000")
    end)
  end)

  describe("prefers its zone", function()
    local function of_zone(picked, zone)
      local total = 0
      for id, count in pairs(picked) do
        total = total + (id:find(zone, 1, true) and count or 0)
      end
      return total
    end

    for _, policy in ipairs({ "round_robin", "least_time", "hash" }) do
      it("while it has enough healthy instances, and spills over in proportion below, by " .. policy, function()
        local own, other = equal(10, "eu"), equal(10, "us")
        local web = new(joined(own, other), { policy = policy, zone = "eu" })
        assert.are.equal(1000, of_zone(counts(web, 1000), "eu"))
        for i = 1, 5 do
          for _ = 1, 3 do
            web:report(own[i], false)
          end
        end
        -- Five of ten are healthy: 1.4 * 50 % of the requests stay.
        local stay = of_zone(counts(web, 10000), "eu")
        assert.is_true(stay > 6700 and stay < 7300, stay .. " of 10000")
      end)
    end

    it("by 1.4 times its part of the mean zone, for any counts", function()
      for own = 1, 5 do
        for other = 1, 10 do
          local web = new(joined(equal(own, "eu"), equal(other, "us")), { zone = "eu" })
          local stay = of_zone(counts(web, 4000), "eu") / 4000
          local expected = math.min(1, 1.4 * own * 2 / (own + other))
          local case = ("%d and %d: %.3f, not %.3f"):format(own, other, stay, expected)
          assert.is_true(math.abs(stay - expected) < 0.03, case)
        end
      end
    end)

    -- The part of the requests that stays at one instance, of two others in another zone; by mean response times.
    local function part_of_own(own_ms, other_ms, at_once)
      local random, pending, stay = random_numbers(5), {}, 0
      local web = new(joined(equal(1, "eu"), equal(2, "us")), { policy = "least_time", zone = "eu" })
      for _ = 1, 4000 do
        local instance = web:pick()
        local is_own = instance.meta.zone == "eu"
        stay = stay + (is_own and 1 or 0)
        local ms = -math.log(1 - random()) * (is_own and own_ms or other_ms)
        table.insert(pending, { instance = instance, ms = ms, ends = time + ms / 1000 })
        table.sort(pending, function(one, another)
          return one.ends < another.ends
        end)
        if #pending >= at_once then
          local done = table.remove(pending, 1)
          time = done.ends
          web:report(done.instance, true, done.ms)
        end
      end
      return stay / 4000
    end

    it("by its speed as well with least_time, and never waits for it", function()
      for _, at_once in ipairs({ 1, 4, 20, 80 }) do
        local equal_ones, faster = part_of_own(20, 20, at_once), part_of_own(5, 20, at_once)
        local slower, hanging = part_of_own(80, 20, at_once), part_of_own(1e5, 20, at_once)
        local case = ("%d at once: %.2f %.2f %.2f %.2f"):format(at_once, equal_ones, faster, slower, hanging)
        assert.is_true(equal_ones > 0.4 and equal_ones < 0.96, case)
        assert.is_true(faster > 0.8 and slower < equal_ones and hanging < 0.1, case)
      end
    end)

    it("also compared with the other zones, when Consul has removed most of its instances", function()
      local web = new(joined(equal(2, "eu"), equal(8, "us")), { zone = "eu" })
      local stay = of_zone(counts(web, 10000), "eu")
      -- The mean zone has 5: 1.4 * 2 / 5.
      assert.is_true(stay > 5500 and stay < 5700, stay .. " of 10000")
    end)

    it("where instances without a zone are in one of their own", function()
      local nowhere = equal(8)
      for _, instance in ipairs(nowhere) do
        instance.meta = nil
      end
      local stay = of_zone(counts(new(joined(equal(2, "eu"), nowhere), { zone = "eu" }), 10000), "eu")
      assert.is_true(stay > 5500 and stay < 5700, stay .. " of 10000")
    end)

    it("and uses the others alone when it has none", function()
      local web = new(joined(equal(2, "us"), equal(2, "ap")), { zone = "eu" })
      assert.are.equal(25, counts(web, 100)["us-1"])
    end)
  end)

  describe("follows its source", function()
    local function view(list)
      return {
        list = list,
        reads = 0,
        all = function(self)
          self.reads = self.reads + 1
          if not self.list then
            return false, "no answer yet", { kind = "timeout" }
          end
          return self.list
        end,
      }
    end

    it("looking at a view at most once in ten milliseconds", function()
      local source = view(equal(3))
      local web = new(source)
      counts(web, 1000, 0.001)
      assert.is_true(source.reads >= 50 and source.reads <= 101, source.reads .. " reads in a second")
    end)

    it("without reading the list while its version is the same", function()
      local source = view(equal(3))
      source.version = function()
        return 7
      end
      counts(new(source), 1000, 0.001)
      assert.are.equal(1, source.reads)
    end)

    it("reading the list again after a failure, also of the same version", function()
      local source = view(nil)
      source.version = function()
        return 7
      end
      local web = new(source)
      assert.is_false(web:pick())
      source.list = equal(1)
      time = time + 1
      assert.are.equal("web-1", web:pick().id)
    end)

    it("counting an instance once that the list has twice", function()
      local list = joined(equal(2), equal(1))
      assert.are.same({ ["web-1"] = 50, ["web-2"] = 50 }, counts(new(list), 100))
    end)

    it("ejecting no more than may be after a change of the list", function()
      local source = view(equal(4))
      local web = new(source)
      eject(web, "web-1")
      eject(web, "web-2")
      source.list = equal(4)
      time = time + 1
      for _ = 1, 5 do
        assert.is_true(report_next(web, "web-3", false))
      end
      assert.are_not.equal("ejected", (state(web, "web-3")))
    end)

    it("keeping what it knows of an instance that stays, whose table is new", function()
      local source = view(equal(4))
      local web = new(source)
      eject(web, "web-2")
      local old = source.list[3]
      source.list = equal(5)
      time = time + 1
      assert.are.equal("ejected", (state(web, "web-2")))
      assert.is_nil(counts(web, 100)["web-2"])
      -- A report about a table of the old list is about the same instance.
      for _ = 1, 3 do
        web:report(old, false)
      end
      assert.are.equal("ejected", (state(web, "web-3")))
    end)

    it("with the same shares while it changes all the time", function()
      local source, picked = view(nil), {}
      local web = new(source)
      for _ = 1, 300 do
        time, source.list = time + 1, equal(3)
        local id = web:pick().id
        picked[id] = (picked[id] or 0) + 1
      end
      assert.are.same({ ["web-1"] = 100, ["web-2"] = 100, ["web-3"] = 100 }, picked)
    end)

    it("forgetting an instance whose address is another", function()
      local source = view(equal(4))
      local web = new(source)
      eject(web, "web-2")
      source.list = equal(4)
      source.list[2].address = "elsewhere"
      time = time + 1
      assert.are.equal("active", (state(web, "web-2")))
    end)

    it("failing as the view does before its first answer, then with not_found when the list is empty", function()
      local source = view(nil)
      local web = new(source)
      local instance, message, err = web:pick()
      assert.is_false(instance)
      assert.are.equal("no answer yet", message)
      assert.are.equal("timeout", err.kind)
      source.list = {}
      time = time + 1
      instance, message, err = web:pick()
      assert.is_false(instance)
      assert.are.equal("there is no instance", message)
      assert.are.equal("not_found", err.kind)
      source.list = equal(1)
      time = time + 1
      assert.are.equal("web-1", web:pick().id)
    end)

    it("keeping the last list when the view fails later", function()
      local source = view(equal(1))
      local web = new(source)
      assert(web:pick())
      source.list = nil
      time = time + 1
      assert.are.equal("web-1", web:pick().id)
    end)

    it("reporting nothing about an instance that has left", function()
      local source = view(equal(2))
      local web = new(source, { policy = "hash" })
      local instance = web:pick("a")
      source.list = {}
      time = time + 1
      web:report(instance, false, 5)
      assert.are.same({}, web:status())
    end)
  end)

  it("tries an ejected instance again for a request that has tried the others", function()
    local list = equal(2)
    local web = new(list)
    eject(web, "web-2")
    assert.are.equal("web-2", web:pick(nil, { list[1] }).id)
  end)

  it("keeps a ring of limited size for great weights", function()
    local weights = {}
    for i = 1, 100 do
      weights[i] = 10000
    end
    local web = new(instances(weights), { policy = "hash" })
    assert(web:pick("a"))
    assert.is_true(web.pool.ring.count <= 16384, web.pool.ring.count .. " points")
  end)

  it("continues when the clock is set back", function()
    local web = new(equal(4))
    eject(web, "web-2")
    time = time - 3600
    assert.is_nil(counts(web, 100)["web-2"])
    time = time + 10.1
    assert.is_true(report_next(web, "web-2", true))
  end)

  it("needs neither a clock nor random numbers of the program", function()
    local web = balancer.new(equal(3), { policy = "least_time" })
    assert.is_truthy(web:pick().id:find("web-", 1, true))
  end)

  describe("refuses", function()
    for name, case in pairs({
      policy = { "best", 'balancer.new: policy must be "round_robin", "least_time" or "hash", got the string "best"' },
      max_failures = { 0, "balancer.new: max_failures must be an integer, 1 or more, got 0" },
      ejection_s = { "10", 'balancer.new: ejection_s must be a positive number of seconds, got the string "10"' },
      max_ejected = { 2, "balancer.new: max_ejected must be a number from 0 to 1, got 2" },
      slow_start_s = { -1, "balancer.new: slow_start_s must be a number of seconds, 0 or more, got -1" },
      load_factor = { 1, "balancer.new: load_factor must be a number above 1, got 1" },
      report_within_s = { 0, "balancer.new: report_within_s must be a positive number of seconds, got 0" },
      zone = { "", "balancer.new: zone must be a non-empty string, got an empty string" },
      zone_meta = { {}, "balancer.new: zone_meta must be a non-empty string, got a table" },
      now = { 5, "balancer.new: now must be a function, got 5" },
      random = { true, "balancer.new: random must be a function, got true" },
    }) do
      it("a wrong " .. name, function()
        local made, message = pcall(balancer.new, {}, { [name] = case[1] })
        assert.is_false(made)
        assert.is_truthy(message:find(case[2], 1, true), message)
      end)
    end

    it("unknown options, sources, keys and instances", function()
      local web = new(equal(1))
      for wanted, call in pairs({
        ["unknown option polciy; the options are: policy, zone,"] = function()
          balancer.new({}, { polciy = "hash" })
        end,
        ["the options must be a table, got a string"] = function()
          balancer.new({}, "hash")
        end,
        ["the source must be a view or a list of instances, got a nil"] = function()
          balancer.new(nil)
        end,
        ["key must be a string, got a number"] = function()
          web:pick(5)
        end,
        ["instance must be a table that pick returned, got a nil"] = function()
          web:report(nil, true)
        end,
        ["ms must be a number of milliseconds, got nan"] = function()
          web:report({}, true, math.abs(0 / 0))
        end,
        ["ms must be a number of milliseconds, got -5"] = function()
          web:report({}, true, -5)
        end,
      }) do
        local made, message = pcall(call)
        assert.is_false(made)
        assert.is_truthy(message:find(wanted, 1, true), message)
        assert.is_truthy(message:find("balancer_spec.lua:", 1, true), message)
      end
    end)
  end)
end)
