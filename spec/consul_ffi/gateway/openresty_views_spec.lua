-- The views of consul_ffi.openresty.views, whose workers and shared dict are the spec's own, so that they meet at each
-- point.
local support = require("spec.support")
local consul_ffi = require("consul_ffi")

local CLOCK, OPENRESTY = "consul_ffi.openresty.clock", "consul_ffi.openresty"
local TEXTS, VIEWS = "consul_ffi.openresty.texts", "consul_ffi.openresty.views"
local LOADED = { CLOCK, OPENRESTY, TEXTS, VIEWS, "consul_ffi.openresty.lease" }

local START = 1000

local unpack = support.unpack

describe("views that one worker of nginx writes for all", function()
  -- The time in seconds; Consul's lists by service, where false is not read yet; what is done instead of a
  -- wait for news; the log.
  local now, lists, on_next, logged
  -- Is called when the requests of the worker have their turn.
  local on_turn
  -- The name of a service that changed, or nil.
  local on_changed
  -- The age of Consul's lists, and the message when there is no more news.
  local age_s, ended_by
  -- The work of the watching worker's timer each second.
  local run_again
  -- Whether Consul's answers are there, and how many views were closed.
  local is_ready, closed
  -- The filter that the last worker gave to client:service_views.
  local chosen_by
  local ngx_before, loaded_before, dump_file, views, texts
  -- Is called before each access to the dict.
  local on_access

  -- A shared dict; without room for more than `limit` bytes of keys and values.
  local function new_dict(limit)
    local values, dict = {}, {}

    local function has_room(key, value)
      local bytes = #key + #tostring(value)
      for other, held in pairs(values) do
        bytes = bytes + (other == key and 0 or #other + #tostring(held))
      end
      return bytes <= (limit or math.huge)
    end

    function dict.get(_, key)
      on_access()
      return values[key]
    end

    function dict.safe_set(_, key, value)
      on_access()
      if not has_room(key, value) then
        return nil, "no memory"
      end
      values[key] = value
      return true
    end

    function dict.safe_add(_, key, value)
      on_access()
      if values[key] ~= nil then
        return false, "exists"
      elseif not has_room(key, value) then
        return nil, "no memory"
      end
      values[key] = value
      return true
    end

    function dict.incr(_, key, by)
      on_access()
      values[key] = values[key] and values[key] + by
      return values[key]
    end

    function dict.delete(_, key)
      on_access()
      values[key] = nil
    end

    function dict.get_keys()
      on_access()
      local keys = {}
      for key in pairs(values) do
        keys[#keys + 1] = key
      end
      return keys
    end

    dict.set = dict.safe_set
    return dict
  end

  local function instance(port)
    return { address = "10.0.0.1", port = port }
  end

  -- Instances on the ports from 1 to `count`.
  local function instances_up_to(count)
    local all = {}
    for port = 1, count do
      all[port] = instance(port)
    end
    return all
  end

  -- The result of client:service_views.
  local function service_views(_, filter)
    local all = {}
    chosen_by = filter

    function all.ready()
      for _, list in pairs(lists) do
        if not list then
          return false, "one has no answer"
        end
      end
      return is_ready(), "one is not there"
    end

    -- A function chooses of the services that Consul has answered with; a list of names has its views at once.
    function all.names()
      local names = {}
      for name in pairs((type(filter) == "table" or is_ready()) and lists or {}) do
        names[#names + 1] = name
      end
      return names
    end

    function all.view(_, name)
      return lists[name] ~= nil and {
        all = function()
          return is_ready() and lists[name], ('service_view "%s": no answer'):format(name)
        end,
        age_s = function()
          return is_ready() and lists[name] and age_s
        end,
      }
    end

    function all.next()
      now = now + 1
      on_turn()
      local goes_on = on_next()
      if not goes_on then
        return false, ended_by
      end
      return true, on_changed()
    end

    function all.close()
      closed = closed + 1
    end

    return all
  end

  before_each(function()
    now, lists, age_s, logged, ended_by = START, { web = { instance(2) } }, 0, {}, nil
    on_access, on_changed, on_turn = function() end, function() end, function() end
    closed, is_ready = 0, function()
      return true
    end
    ngx_before, loaded_before = rawget(_G, "ngx"), {}
    for _, name in ipairs(LOADED) do
      loaded_before[name] = package.loaded[name] or false
      package.loaded[name] = nil
    end
    package.loaded[CLOCK] = function()
      return now
    end
    package.loaded[OPENRESTY] = {
      new = function()
        return { service_views = service_views }
      end,
    }
    rawset(_G, "ngx", {
      shared = { consul = new_dict() },
      now = function()
        return now
      end,
      update_time = function() end,
      sleep = function()
        on_turn()
      end,
      worker = {
        pid = function()
          return 1
        end,
        exiting = function()
          return false
        end,
      },
      log = function(_, ...)
        logged[#logged + 1] = table.concat({ ... })
      end,
    })
    views, texts = require(VIEWS), require(TEXTS)
  end)

  after_each(function()
    for name, module in pairs(loaded_before) do
      package.loaded[name] = module or nil
    end
    rawset(_G, "ngx", ngx_before)
    if dump_file then
      os.remove(dump_file)
      dump_file = nil
    end
  end)

  -- `of` is the scope in the file; `confirmed` the time of its lists.
  local function write_dump(ports, of, confirmed)
    local services = {}
    for name, port in pairs(ports) do
      services[name] = { confirmed = confirmed or START - 60, instances = { instance(port) } }
    end
    local _, json = assert(consul_ffi.json_encode({ of = of, services = services }))
    dump_file = dump_file or os.tmpname()
    local file = assert(io.open(dump_file, "w"))
    assert(file:write(json))
    assert(file:close())
  end

  local function every_service()
    return true
  end

  local function new_views()
    return views.new({ dict = "consul", filter = every_service, dump_file = dump_file })
  end

  -- Has a worker watch for some seconds; `during`, by the second, is what happens meanwhile.
  local function watch(worker, seconds, during)
    local run
    _G.ngx.timer = {
      at = function(_, tick)
        run = tick
        return true
      end,
      every = function(_, tick)
        run_again = tick
        return true
      end,
    }
    local second, passed, why = 0, true, nil
    on_next = function()
      second = second + 1
      if during and during[second] then
        passed, why = pcall(during[second])
      end
      return passed and second <= seconds
    end
    worker:start()
    run(false, worker)
    if not passed then
      error(why, 0)
    end
  end

  -- The ports of a service's instances.
  local function ports(worker, name)
    local found = {}
    for i, one in ipairs(assert(worker:view(name):all())) do
      found[i] = one.port
    end
    return table.concat(found, ",")
  end

  -- A worker that loads the dump file, stopped before its access number `stop` to the dict; nil if it does not have so
  -- many.
  local function stopped_at(stop)
    local accesses, loading = 0, coroutine.create(new_views)
    local own_thread = loading
    on_access = function()
      if coroutine.running() == own_thread then
        accesses = accesses + 1
        if accesses == stop then
          coroutine.yield()
        end
      end
    end
    assert(coroutine.resume(loading))
    return coroutine.status(loading) == "suspended" and loading or nil
  end

  -- Calls `test` with a worker that is stopped while it loads the dump file, for each point, with a dict of its own.
  local function at_each_point(dumped, test)
    local points = 0
    while true do
      now, _G.ngx.shared.consul = START, new_dict()
      write_dump(dumped)
      local loading = stopped_at(points + 1)
      if not loading then
        break
      end
      points = points + 1
      test(loading, ("stopped at access %d"):format(points))
    end
    assert.is_true(points > 10, points .. " points")
  end

  it("watch in workers alone", function()
    local PROCESS = "ngx.process"
    local before = package.loaded[PROCESS]
    dump_file = os.tmpname()
    os.remove(dump_file)
    for kind, timers in pairs({
      worker = 2, single = 2, none = 2,
      ["privileged agent"] = 0, helper = 0, master = 0, signaller = 0,
    }) do
      -- An older lua-resty-core may not know the kind.
      package.loaded[PROCESS] = {
        type = function()
          return kind ~= "none" and kind or nil
        end,
      }
      local started, tried = 0, 0
      local function timer()
        started = started + 1
        return true
      end
      _G.ngx.timer = { at = timer, every = timer }
      local worker = new_views()
      local open = io.open
      rawset(io, "open", function(...)
        tried = tried + 1
        return open(...)
      end)
      local ran, why = pcall(worker.start, worker)
      rawset(io, "open", open)
      package.loaded[PROCESS] = before
      assert(ran, why)
      assert.same({ kind, timers, timers / 2 }, { kind, started, tried })
      assert.is_false(worker:view("web"):all())
    end
  end)

  it("start with the dump file", function()
    write_dump({ web = 1 })
    local worker = new_views()
    assert.equal("1", ports(worker, "web"))
    assert.equal(60, worker:view("web"):age_s())
    assert.same({ "web" }, worker:names())
  end)

  it("start with the dump file, and say how old its lists are", function()
    write_dump({ web = 1, api = 2 })
    new_views()
    local line = "consul_ffi: starts with %s: the lists of 2 services, the oldest 60 s old"
    assert.same({ line:format(dump_file) }, logged)
  end)

  it("say once that Consul does not answer, and how old the lists are that are served", function()
    write_dump({ web = 1 })
    is_ready = function()
      return now >= START + 20
    end
    local worker = new_views()
    logged = {}
    watch(worker, 30, {
      [4] = function()
        assert.same({}, logged)
      end,
      [15] = function()
        assert.equal("1", ports(worker, "web"))
      end,
    })
    assert.equal(1, #logged)
    assert.matches("no answer from Consul since this worker began to watch: the lists of 1 services are served as they "
      .. "were, the oldest 6%d s old", logged[1])
    assert.equal("2", ports(worker, "web"))
  end)

  it("take from the dump file only the services that the filter names", function()
    write_dump({ web = 1, api = 2 })
    local worker = views.new({ dict = "consul", filter = { "web" }, dump_file = dump_file })
    assert.same({ "web" }, worker:names())
    assert.matches("no answer from Consul yet", select(2, worker:view("api"):all()))
  end)

  it("have no answer yet of a service that is not in the dump file", function()
    for _, dumped in ipairs({ {}, { api = 1 } }) do
      _G.ngx.shared.consul = new_dict()
      write_dump(dumped)
      local worker = new_views()
      local list, _, err = worker:view("web"):all()
      assert.is_false(list)
      assert.equal("timeout", err.kind)
      assert.is_false((worker:view("web"):age_s()))
    end
  end)

  it("have no answer yet of a service that the worker before did not watch", function()
    lists.api = nil
    watch(views.new({ dict = "consul", filter = { "web" } }), 3)
    local worker = views.new({ dict = "consul", filter = { "web", "api" } })
    assert.equal("2", ports(worker, "web"))
    assert.matches("no answer from Consul yet", select(2, worker:view("api"):all()))
    now = now + 6
    watch(worker, 3)
    assert.equal("", ports(worker, "api"))
  end)

  it("do not start with a dump file of another datacenter, namespace or partition", function()
    for _, option in ipairs({ "datacenter", "namespace", "partition" }) do
      local of, config = option .. " dc2", { [option] = "dc2" }
      for _, scope in ipairs({ of, "" }) do
        _G.ngx.shared.consul, logged = new_dict(), {}
        write_dump({ web = 1 }, scope)
        local own = views.new({ dict = "consul", filter = { "web" }, dump_file = dump_file, config = config })
        assert.equal(scope == of, own:names() ~= nil)
        if scope == "" then
          assert.matches("starts without .*: its lists are of the agent's own datacenter, not of " .. of, logged[1])
        end
        _G.ngx.shared.consul = new_dict()
        assert.equal(scope == "", new_views():names() ~= nil)
      end
    end
  end)

  describe("after a reload with another datacenter", function()
    local function views_of(datacenter)
      return views.new({
        dict = "consul", filter = every_service, dump_file = dump_file, config = { datacenter = datacenter },
      })
    end

    before_each(function()
      dump_file = os.tmpname()
      lists.api = { instance(1) }
      watch(views_of("dc1"), 4)
      now = now + 6
    end)

    it("neither serve nor dump the lists of the one before while Consul is away", function()
      local dumped = assert(io.open(dump_file)):read("*a")
      local worker = views_of("dc2")
      local function serves_nothing()
        assert.is_nil(worker:names())
        assert.is_nil(worker:view("web"):version())
        assert.matches("no answer from Consul yet", select(2, worker:view("web"):all()))
        assert.is_false((worker:view("web"):pick()))
        assert.is_false((worker:view("web"):age_s()))
        assert.is_false((worker:view("none"):all()))
      end
      serves_nothing()
      is_ready = function()
        return false
      end
      watch(worker, 70, { [3] = serves_nothing })
      serves_nothing()
      assert.equal(dumped, assert(io.open(dump_file)):read("*a"))
      for _, key in ipairs(worker.dict:get_keys()) do
        assert.is_nil(key:match("^[tvc]:"), key)
      end
    end)

    it("keep no list of the one before that Consul does not confirm", function()
      local worker = views_of("dc2")
      lists = { web = { instance(3) } }
      watch(worker, 4)
      assert.same({ "web" }, worker:names())
      assert.equal("3", ports(worker, "web"))
      assert.equal("", ports(worker, "api"))
      _G.ngx.shared.consul = new_dict()
      assert.is_nil(views_of("dc1"):names())
      _G.ngx.shared.consul = new_dict()
      assert.same({ "web" }, views_of("dc2"):names())
    end)

    it("start with a dump file of the right one", function()
      write_dump({ web = 9 }, "datacenter dc2")
      is_ready = function()
        return false
      end
      local worker = views_of("dc2")
      assert.is_false((worker:view("web"):all()))
      watch(worker, 4)
      assert.equal("9", ports(worker, "web"))
      assert.same({ "web" }, worker:names())
    end)

    it("serve the lists that a version before wrote, which noted none", function()
      _G.ngx.shared.consul:delete("scope")
      local worker = views_of("dc2")
      assert.equal("2", ports(worker, "web"))
      is_ready = function()
        return false
      end
      watch(worker, 4)
      assert.equal("2", ports(worker, "web"))
    end)
  end)

  for what, dumped in pairs({
    ["another datacenter's"] = { { web = 1, api = 3 }, "datacenter dc2" },
    ["a newer"] = { { web = 1, api = 3 }, "", START + 1000 },
    ["an empty"] = { {}, "", START + 1000 },
  }) do
    it(("never have %s dump file's lists in the place of those that are served"):format(what), function()
      watch(new_views(), 3)
      write_dump(unpack(dumped, 1, 3))
      local worker = new_views()
      assert.same({ "web" }, worker:names())
      assert.equal("2", ports(worker, "web"))
      assert.equal("", ports(worker, "api"))
      local is_silent = true
      is_ready = function()
        return not is_silent
      end
      now = now + 6
      watch(worker, 40, {
        [20] = function()
          assert.equal("2", ports(worker, "web"))
          assert.is_true(worker:view("web"):age_s() >= 20)
          is_silent = false
        end,
      })
      assert.equal("2", ports(worker, "web"))
      assert.equal("", ports(worker, "api"))
      assert.is_true(worker:view("web"):age_s() <= 2)
    end)
  end

  describe("with a greatest age", function()
    local function limited(most_s)
      return views.new({ dict = "consul", filter = every_service, dump_file = dump_file, age_max_s = most_s })
    end

    it("serve no list that is older, and say why", function()
      local worker = limited(30)
      local view = worker:view("web")
      local web = require("consul_ffi.balancer").new(view, {
        now = function()
          return now
        end,
      })
      watch(worker, 3)
      assert.equal("2", ports(worker, "web"))
      assert.equal("", ports(worker, "none"))
      now = START + 30
      assert.equal(2, web:pick().port)
      now = now + 10
      local message = 'service_view "web": Consul confirmed its list %.0f s ago, and age_max_s is 30'
      message = message:format(view:age_s())
      local err = { kind = "timeout", message = message, retryable = true, maybe_applied = false, expired = true }
      assert.same({ false, message, err }, { view:all() })
      assert.same({ false, message, err }, { view:pick() })
      assert.same({ false, message, err }, { view:pick("user-1") })
      assert.same({ false, message, err }, { web:pick() })
      assert.same({ false, message, err }, { view:ready(0) })
      assert.is_nil(view:version())
      assert.is_true(view:age_s() > 30)
      assert.is_false((worker:view("none"):all()))
      watch(worker, 3)
      assert.equal(2, view:pick().port)
      assert.equal(2, web:pick().port)
      assert.equal("2", ports(worker, "web"))
      assert.equal("", ports(worker, "none"))
    end)

    it("start with a dump file only while its lists are not older", function()
      write_dump({ web = 1 })
      assert.equal("1", ports(limited(61), "web"))
      _G.ngx.shared.consul = new_dict()
      local list, message = limited(59):view("web"):all()
      assert.is_false(list)
      assert.matches("Consul confirmed its list 60 s ago, and age_max_s is 59", message)
    end)

    it("do not start with a dump file whose times are to come", function()
      write_dump({ web = 1 }, "", START + 30)
      assert.is_nil(limited(60):names())
      assert.matches("the list of its service web is of a time to come", logged[1])
      write_dump({ web = 1 }, "", START + 0.5)
      assert.equal("1", ports(limited(60), "web"))
    end)

    it("refuse one that a list of a Consul that is well may have", function()
      for _, most_s in ipairs({ 0, 29, 0 / 0, "60" }) do
        assert.error_matches(function()
          limited(most_s)
        end, "^views.new: age_max_s must be a number of at least 30 seconds")
      end
    end)
  end)

  it("write the ages of lists that do not change to the dump file each minute", function()
    dump_file = os.tmpname()
    watch(new_views(), 200)
    _G.ngx.shared.consul = new_dict()
    assert.is_true(new_views():view("web"):age_s() <= 62)
  end)

  it("keep a dump file as it is before Consul has answered", function()
    write_dump({ web = 1, api = 2 })
    is_ready = function()
      return false
    end
    local before = assert(io.open(dump_file)):read("*a")
    watch(views.new({ dict = "consul", filter = { "web" }, dump_file = dump_file }), 100)
    assert.equal(before, assert(io.open(dump_file)):read("*a"))
  end)

  it("pick for a key the instance that a service view picks", function()
    local client = consul_ffi.new({ simulate = support.name("picks") })
    for port, weight in ipairs({ 1, 2, 40, 3, 100 }) do
      local weights = { passing = weight, warning = 1 }
      assert(client:agent_service_register({ name = "web", id = "w" .. port, port = port, weights = weights }))
    end
    local own = client:service_view("web")
    assert(own:ready(10000))
    lists.web = own:all()
    local worker, picked = new_views(), {}
    watch(worker, 3)
    local shared = worker:view("web")
    for n = 1, 200 do
      local key = "user-" .. n
      local id = shared:pick(key).id
      assert.equal(own:pick(key).id, id)
      assert.equal(id, shared:pick(key).id)
      picked[id] = true
    end
    assert.is_true(picked.w3 and picked.w5)
    assert.has_error(function()
      shared:pick(7)
    end, "view:pick: key must be a string, got a number")
    local none = worker:view("none")
    assert.same({ none:pick() }, { none:pick("user-1") })
    client:close()
  end)

  it("never have the dump's list in the place of Consul's, when a worker is slow to load it", function()
    at_each_point({ web = 1 }, function(loading, where)
      local worker = new_views()
      watch(worker, 3, {
        [2] = function()
          assert.equal("2", ports(worker, "web"), where)
          assert(coroutine.resume(loading))
          assert.equal("2", ports(worker, "web"), where)
          assert.is_true(worker:view("web"):age_s() <= 2, where)
        end,
      })
      assert.equal("2", ports(worker, "web"), where)
      assert.same({ "web" }, worker:names(), where)
    end)
  end)

  it("do not keep a list of the dump that Consul does not have, when a worker is slow to load it", function()
    at_each_point({ gone = 1, web = 1 }, function(loading, where)
      local worker = new_views()
      watch(worker, 40, {
        [2] = function()
          assert(coroutine.resume(loading))
        end,
      })
      assert.equal("", ports(worker, "gone"), where)
      assert.same({ "web" }, worker:names(), where)
      assert.is_true(worker:view("gone"):age_s() <= 2, where)
    end)
  end)

  it("do not keep a list of the dump that came after Consul's names", function()
    at_each_point({ gone = 1, web = 1 }, function(loading, where)
      local worker = views.new({ dict = "consul", filter = every_service })
      watch(worker, 40, {
        [2] = function()
          assert(coroutine.resume(loading))
        end,
      })
      assert.equal("", ports(worker, "gone"), where)
      assert.is_true(worker:view("gone"):age_s() <= 2, where)
    end)
  end)

  it("start with the dump file also when a worker was killed while it loaded that", function()
    at_each_point({ api = 1, web = 1 }, function(_, where)
      local worker = new_views()
      assert.equal("1", ports(worker, "api"), where)
      assert.equal("1", ports(worker, "web"), where)
      assert.is_true(worker:view("web"):age_s() >= 60, where)
      assert.equal(2, #worker:names(), where)
    end)
  end)

  -- A worker that watches while lists change, stopped before its access number `stop` to the dict; nil if it has fewer.
  local function watcher_stopped_at(stop)
    local worker, accesses = new_views(), 0
    local thread = coroutine.create(function()
      lists.web, lists.gone = { instance(3) }, { instance(4) }
      watch(worker, 4, {
        [2] = function()
          lists.web, lists.gone = { instance(5) }, nil
        end,
      })
    end)
    on_access = function()
      if coroutine.running() == thread then
        accesses = accesses + 1
        if accesses == stop then
          coroutine.yield()
        end
      end
    end
    assert(coroutine.resume(thread))
    return coroutine.status(thread) == "suspended" and thread or nil
  end

  for what, goes_on in pairs({ ["was killed"] = false, ["went on late"] = true }) do
    it(("have Consul's lists after a worker that %s at any access while it watched"):format(what), function()
      if support.interpreter == "lua5.1" then
        return pending("SKIPPED: plain Lua 5.1 cannot stop a coroutine within pcall; nginx has LuaJIT")
      end
      local points = 0
      while true do
        now, lists, _G.ngx.shared.consul = START, {}, new_dict()
        local stopped = watcher_stopped_at(points + 1)
        if not stopped then
          break
        end
        points = points + 1
        local where = ("stopped at access %d"):format(points)
        now, lists = now + 6, { web = { instance(2) }, api = { instance(1) } }
        local worker = new_views()
        watch(worker, 40, {
          [3] = goes_on and function()
            assert(coroutine.resume(stopped))
          end or nil,
          [6] = function()
            assert.equal("2", ports(worker, "web"), where)
            assert.equal("1", ports(worker, "api"), where)
          end,
        })
        assert.equal("2", ports(worker, "web"), where)
        assert.equal("", ports(worker, "gone"), where)
        assert.is_true(worker:view("web"):age_s() <= 2, where)
        local entries = 0
        for _, key in ipairs(worker.dict:get_keys()) do
          entries = entries + (key:find("^[vt]:") and 1 or 0)
        end
        -- Of two services, their names and the room for these.
        assert.equal(8, entries, where)
      end
      assert.is_true(points > 30, points .. " points")
    end)
  end

  -- The worker that watches was paused for 12 s, and another one watches, which has seen instance 7 of web.
  local function taken_over()
    local dict = _G.ngx.shared.consul
    now = now + 12
    assert.is_true(require("consul_ffi.openresty.lease").new(dict):is_held())
    assert(texts.write(dict, "s:web", '[{"address":"10.0.0.1","port":7}]'))
    assert(dict:safe_set("c:web", now))
  end

  -- All entries of the dict.
  local function entries()
    local all, dict = {}, _G.ngx.shared.consul
    for _, key in ipairs(dict:get_keys()) do
      all[key] = dict:get(key)
    end
    return all
  end

  local function read_whole(path)
    local file = assert(io.open(path, "r"))
    local text = file:read("*a")
    file:close()
    return text
  end

  for what, changed in pairs({ ["news"] = "web", ["no news"] = false }) do
    it(("write nothing when another worker has taken over while they waited, with %s"):format(what), function()
      dump_file = os.tmpname()
      local worker, left, dumped = new_views(), nil, nil
      watch(worker, 80, {
        [63] = function()
          dumped = read_whole(dump_file)
          taken_over()
          left = entries()
          local told = changed or nil
          on_changed = function()
            told, changed = nil, told
            return changed
          end
        end,
      })
      assert.same(left, entries())
      assert.equal(dumped, read_whole(dump_file))
      assert.equal("7", ports(worker, "web"))
    end)
  end

  it("leave the dump file of the worker that has taken over while they wrote theirs", function()
    dump_file = os.tmpname()
    local worker, dict, path = new_views(), _G.ngx.shared.consul, nil
    local safe_set = dict.safe_set
    function dict.safe_set(_, key, value)
      local is_set = safe_set(dict, key, value)
      if key == "writing" and not path then
        path = value
        taken_over()
      end
      return is_set
    end
    local before = read_whole(dump_file)
    watch(worker, 4)
    assert.equal(before, read_whole(dump_file))
    assert.is_nil((io.open(path, "r")))
    assert.equal("7", ports(worker, "web"))
  end)

  it("never say that Consul confirmed a list earlier than it did", function()
    local worker = new_views()
    watch(worker, 4, {
      [3] = function()
        age_s = 20
      end,
    })
    assert.is_true(worker:view("web"):age_s() <= 3)
    lists.web = { instance(3) }
    now = now + 6
    watch(new_views(), 4)
    assert.is_true(worker:view("web"):age_s() >= 20)
  end)

  it("have Consul's list again after a worker that has lost the lease wrote another one", function()
    local worker = new_views()
    watch(worker, 3, {
      [2] = function()
        assert(texts.write(worker.dict, "s:web", '[{"address":"10.0.0.1","port":1}]'))
        assert.equal("1", ports(worker, "web"))
      end,
    })
    assert.equal("2", ports(worker, "web"))
  end)

  for whose, version in pairs({ ["another worker's"] = 999, ["its own"] = false }) do
    it(("have a list again whose text was removed, in %s version"):format(whose), function()
      local worker = new_views()
      watch(worker, 3, {
        [2] = function()
          if version then
            assert(worker.dict:safe_set("v:s:web", version))
          else
            worker.dict:delete("t:" .. worker.dict:get("v:s:web"))
          end
          worker.views = {}
          assert.is_false(worker:view("web"):all())
        end,
      })
      assert.equal("2", ports(worker, "web"))
    end)
  end

  it("tell a service without a list yet from a dict without room", function()
    lists.api = false
    local worker = new_views()
    watch(worker, 3)
    assert.same({}, logged)
    watch(worker, 10)
    assert.equal("2", ports(worker, "web"))
    local list, message, err = worker:view("api"):all()
    assert.is_false(list)
    assert.matches("no answer from Consul yet", message)
    assert.same({ kind = "timeout", message = message, retryable = true, maybe_applied = false }, err)
    assert.equal("", ports(worker, "none"))
  end)

  describe("while one service cannot be read", function()
    local function names_in_order(worker)
      local names = worker:names()
      table.sort(names)
      return names
    end

    it("name, confirm and dump the others, and say which one", function()
      dump_file = os.tmpname()
      lists.api = false
      local worker = new_views()
      logged = {}
      watch(worker, 40, {
        [4] = function()
          -- It may be read still.
          assert.is_nil(worker:names())
          assert.same({}, logged)
        end,
        [9] = function()
          assert.same({ "api", "web" }, names_in_order(worker))
        end,
      })
      assert.is_true(worker:view("web"):age_s() <= 2)
      assert.is_false((worker:view("api"):all()))
      assert.equal("", ports(worker, "none"))
      local why = 'service_view "api": no answer'
      assert.same({ 'consul_ffi: Consul has not answered for 1 of 2 services, such as "api": ' .. why }, logged)
      _G.ngx.shared.consul = new_dict()
      assert.same({ "web" }, new_views():names())
    end)

    it("keep the list that the worker before has read, which alone grows old", function()
      dump_file = os.tmpname()
      lists.api = { instance(1) }
      watch(new_views(), 3)
      lists.api = false
      local worker = new_views()
      now = now + 6
      watch(worker, 60, {
        [2] = function()
          assert.same({ "api", "web" }, names_in_order(worker))
        end,
      })
      assert.equal("1", ports(worker, "api"))
      assert.is_true(worker:view("api"):age_s() >= 60)
      assert.is_true(worker:view("web"):age_s() <= 2)
      _G.ngx.shared.consul = new_dict()
      assert.same({ "api", "web" }, names_in_order(new_views()))
    end)

    it("say why also when there is no other", function()
      lists = { api = false }
      watch(new_views(), 10)
      assert.same({ "consul_ffi: no answer from Consul since this worker began to watch: one has no answer" }, logged)
    end)

    it("name the services when the others have been read", function()
      for number = 1, 10 do
        lists["s" .. number] = false
      end
      local worker, during = new_views(), {}
      for number = 1, 10 do
        during[number * 4] = function()
          assert.is_nil(worker:names())
          lists["s" .. number] = {}
        end
      end
      during[42] = function()
        assert.equal(11, #worker:names())
      end
      watch(worker, 44, during)
      assert.same({}, logged)
    end)
  end)

  it("name the services although their lists take all the room", function()
    dump_file = os.tmpname()
    local number = 0
    for service = 1, 12 do
      lists["service " .. service] = instances_up_to(3)
    end
    on_changed = function()
      number = number + 1
      return lists["service " .. number] and "service " .. number or nil
    end
    _G.ngx.shared.consul = new_dict(1600)
    local worker = new_views()
    logged = {}
    watch(worker, 10)
    assert.equal(13, #assert(worker:names()))
    assert.equal(1, #logged)
    assert.matches("the lists of 13 services do not fit", logged[1])
    lists["service 13"], lists["service 1"] = {}, nil
    now = now + 40
    watch(worker, 40)
    assert.equal(13, #worker:names())
    _G.ngx.shared.consul = new_dict(1600)
    assert.is_true(#new_views():names() > 2)
  end)

  it("say that the dict has no room for the names, also of the dump file", function()
    _G.ngx.shared.consul = new_dict(250)
    for service = 1, 30 do
      lists["service " .. service] = {}
    end
    local worker = new_views()
    assert.same({ nil, "no answer from Consul yet" }, { worker:names() })
    watch(worker, 10)
    local why = 'there is no room for the names of the services in the lua_shared_dict "consul"'
    assert.same({ nil, why }, { worker:names() })
    dump_file = os.tmpname()
    write_dump({ web = 1, api = 2, other = 3 })
    _G.ngx.shared.consul = new_dict(400)
    assert.is_true(#new_views():names() > 0)
  end)

  it("say once that the dict has no room", function()
    _G.ngx.shared.consul = new_dict(400)
    lists.api = instances_up_to(20)
    local worker = new_views()
    watch(worker, 3)
    assert.equal(1, #logged)
    assert.matches("the lists of 2 services do not fit", logged[1])
    local size_k = tonumber(logged[1]:match("at least (%d+)k"))
    local _, json = consul_ffi.json_encode(lists.api)
    -- It is written before the last one is removed.
    assert.is_true(size_k * 1024 >= 2 * #json and size_k < 64, size_k)
    local _, _, err = worker:view("api"):all()
    assert.equal("config", err.kind)
    assert.equal("2", ports(worker, "web"))
  end)

  it("name a size that is larger than that of the dict, whatever its lists take", function()
    _G.ngx.shared.consul = new_dict(400)
    _G.ngx.shared.consul.capacity = function()
      return 200 * 1024
    end
    lists.api = instances_up_to(20)
    watch(new_views(), 3)
    assert.matches("it must have at least 300k", logged[1])
  end)

  it("say again that the dict has no room when the lists are longer by half", function()
    _G.ngx.shared.consul = new_dict(400)
    lists.api = instances_up_to(100)
    local turn = 0
    on_changed = function()
      turn = turn + 1
      return turn % 2 == 1 and "api" or nil
    end
    local worker = new_views()
    watch(worker, 6, {
      [3] = function()
        assert.equal(1, #logged)
        for port = 101, 400 do
          lists.api[port] = instance(port)
        end
      end,
    })
    assert.equal(2, #logged)
    assert.matches("do not fit", logged[2])
  end)

  it("ask Consul nothing while another worker watches", function()
    watch(new_views(), 4, {
      [3] = function()
        chosen_by = nil
        _G.ngx.timer.at = function(_, tick, other)
          tick(false, other)
          return true
        end
        new_views():start()
        assert.is_nil(chosen_by)
      end,
    })
  end)

  it("are not watched any more by a worker that exits, also while lists change all the time", function()
    local turn = 0
    on_changed = function()
      turn = turn + 1
      return turn % 2 == 1 and "web" or nil
    end
    local worker = new_views()
    watch(worker, 30, {
      [7] = function()
        _G.ngx.worker.exiting = function()
          return true
        end
      end,
      [10] = function()
        error("it goes on")
      end,
    })
    assert.is_true(worker.dict:get("renewed") <= now - 5)
  end)

  -- Has a worker try to watch, as its timer does.
  local function try_to_watch(worker)
    local run
    on_next = function()
      return false
    end
    _G.ngx.timer = {
      at = function(_, tick)
        run = tick
        return true
      end,
      every = function()
        return true
      end,
    }
    worker:start()
    run(false, worker)
  end

  it("say once why they cannot be watched, and let another worker try", function()
    local worker = new_views()
    ended_by = "cannot make a unix socket in /none"
    try_to_watch(worker)
    try_to_watch(worker)
    assert.same({ "consul_ffi: cannot watch: cannot make a unix socket in /none" }, logged)
    assert.is_true(worker.dict:get("renewed") <= now - 5)
    ended_by = "another reason"
    try_to_watch(worker)
    assert.equal(2, #logged)
    watch(worker, 2)
    assert.equal(3, #logged)
    _G.ngx.worker.exiting = function()
      return true
    end
    ended_by = "the worker is exiting"
    try_to_watch(worker)
    assert.equal(3, #logged)
  end)

  it("say once that there is no client, and watch when there is one", function()
    local worker, make = new_views(), package.loaded[OPENRESTY].new
    package.loaded[OPENRESTY].new = function()
      error("ConsulClient: token_file: No such file", 0)
    end
    try_to_watch(worker)
    try_to_watch(worker)
    assert.same({ "consul_ffi: cannot watch: ConsulClient: token_file: No such file" }, logged)
    package.loaded[OPENRESTY].new = make
    watch(worker, 3)
    assert.equal("2", ports(worker, "web"))
  end)

  it("can be watched although the dump file fills the dict", function()
    local dumped = {}
    for number = 1, 20 do
      dumped["service" .. number] = number
    end
    write_dump(dumped)
    _G.ngx.shared.consul = new_dict(600)
    local worker = new_views()
    assert.matches("do not fit", logged[1])
    watch(worker, 40)
    assert.equal("2", ports(worker, "web"))
    for _, key in ipairs(worker.dict:get_keys()) do
      assert.is_nil(key:find("service", 1, true), key)
    end
  end)

  it("say that the dict is full when no worker can watch", function()
    _G.ngx.shared.consul = new_dict(10)
    new_views()
    assert.matches('the lua_shared_dict "consul" is full: no worker can watch', logged[1], 1, true)
  end)

  it("refuse a list that has anything but names", function()
    for _, filter in ipairs({ { "web", 5 }, { "" }, { web = true } }) do
      assert.error_matches(function()
        views.new({ dict = "consul", filter = filter })
      end, "views.new: filter must be a function or a list of services' names")
    end
  end)

  it("write the dump file again after a failure, which is told once", function()
    local folder = os.tmpname()
    os.remove(folder)
    dump_file = folder .. "/consul.json"
    local worker = new_views()
    logged = {}
    watch(worker, 30, {
      [20] = function()
        assert.equal(1, #logged)
        assert.matches("cannot write", logged[1])
        assert(os.execute("mkdir " .. folder))
      end,
    })
    assert.equal(1, #logged)
    _G.ngx.shared.consul = new_dict()
    assert.equal("2", ports(new_views(), "web"))
    os.remove(dump_file)
    os.remove(folder)
  end)

  it("try the folder of the dump file at the start", function()
    local folder = os.tmpname()
    os.remove(folder)
    dump_file = folder .. "/consul.json"
    local worker = new_views()
    logged = {}
    _G.ngx.timer = { at = function() return true end, every = function() return true end }
    worker:start()
    assert.equal(1, #logged)
    assert.matches("cannot write .*consul.json: .*No such file.*: the user of the workers needs its folder", logged[1])
    dump_file = os.tmpname()
    worker, logged = new_views(), {}
    worker:start()
    assert.same({}, logged)
    assert.is_nil((io.open(dump_file .. ".1", "r")))
    os.remove(dump_file)
  end)

  it("leave nothing of a dump file that could not be written", function()
    dump_file = os.tmpname()
    os.remove(dump_file)
    local worker = new_views()
    assert(os.execute("mkdir " .. dump_file))
    watch(worker, 4)
    assert.matches("cannot write", logged[#logged])
    assert.is_nil((io.open(dump_file .. ".1", "r")))
    os.execute("rmdir " .. dump_file)
  end)

  it("write the dump file also while lists change all the time", function()
    dump_file = os.tmpname()
    on_changed = function()
      lists.web = { instance(now) }
      return now % 2 == 1 and "web" or nil
    end
    watch(new_views(), 20)
    _G.ngx.shared.consul = new_dict()
    assert.is_true(tonumber(ports(new_views(), "web")) > now - 6)
  end)

  it("let requests have their turn while many lists change, are confirmed, dumped, swept or have no room", function()
    -- A dict without room takes more accesses between two looks at the clock, which depend on the order of its keys.
    for limit, bound_s in pairs({ [math.huge] = 0.008, [2000] = 0.02 }) do
      _G.ngx.shared.consul = new_dict(limit)
      dump_file, lists = os.tmpname(), {}
      for number = 1, 50 do
        lists["service " .. number] = instances_up_to(5)
      end
      local began_at, longest, turns = now, 0, 0
      local changed = {}
      -- Each access takes a tenth of a millisecond.
      on_access = function()
        now = now + 0.0001
        longest = math.max(longest, now - began_at)
      end
      on_turn = function()
        began_at, turns = now, turns + 1
      end
      on_changed = function()
        changed[#changed + 1] = "service " .. #changed % 50 + 1
        return #changed % 50 > 0 and changed[#changed] or nil
      end
      watch(new_views(), 60)
      assert.is_true(turns > 100, turns)
      assert.is_true(longest < bound_s, longest)
    end
  end)

  it("count the age of a dump file from now when its time has yet to come", function()
    write_dump({ web = 1 })
    now = START - 120 -- the clock was set back
    local view = new_views():view("web")
    now = now + 30
    assert.equal(30, view:age_s())
  end)

  it("are not watched twice by one worker, and closed at the end", function()
    local worker = new_views()
    watch(worker, 4, {
      [3] = function()
        chosen_by = nil
        run_again(false, worker)
        assert.is_nil(chosen_by)
      end,
    })
    assert.equal(1, closed)
  end)

  it("have no names before Consul has answered", function()
    is_ready = function()
      return now >= START + 3
    end
    local worker = new_views()
    watch(worker, 6, {
      [3] = function()
        assert.is_nil(worker:names())
      end,
    })
    assert.same({ "web" }, worker:names())
  end)

  it("know services again when the dict has room again", function()
    _G.ngx.shared.consul = new_dict(400)
    lists.api = instances_up_to(20)
    local worker = new_views()
    watch(worker, 8, {
      [4] = function()
        assert.equal("config", select(3, worker:view("none"):all()).kind)
        lists.api = { instance(1) }
      end,
      [7] = function()
        assert.same({}, worker:view("none"):all())
        assert.equal("1", ports(worker, "api"))
      end,
    })
  end)

  it("write a dump file that only its user can read and write", function()
    local has_ffi, ffi = pcall(require, "ffi")
    if not has_ffi then
      return pending("nginx has LuaJIT")
    end
    ffi.cdef("unsigned int umask(unsigned int);")
    dump_file = os.tmpname()
    local before = ffi.C.umask(0) -- as in nginx
    watch(new_views(), 8)
    local left = ffi.C.umask(before)
    local pipe = assert(io.popen("stat -c %a " .. dump_file))
    assert.same({ 0, "600\n" }, { left, pipe:read("*a") })
    pipe:close()
  end)

  it("need a dict and a filter", function()
    for missing, options in pairs({ dict = { filter = {} }, filter = { dict = "consul" } }) do
      assert.error_matches(function()
        views.new(options)
      end, "views.new: " .. missing)
    end
  end)

  it("write the dump file two seconds after a change", function()
    dump_file = os.tmpname()
    local worker = new_views()
    local function dumped()
      local file = assert(io.open(dump_file, "r"))
      local text = file:read("*a")
      file:close()
      return text
    end
    watch(worker, 10, {
      [4] = function()
        lists.web = { instance(7) }
        texts.remove(worker.dict, "s:web")
      end,
      [6] = function()
        assert.equal("7", ports(worker, "web"))
        assert.is_nil(dumped():find('"port":7', 1, true))
      end,
      [7] = function()
        assert.is_truthy(dumped():find('"port":7', 1, true))
      end,
    })
  end)

  it("wait for the first list up to a limit, or until the worker exits", function()
    local sleeps = 0
    _G.ngx.sleep = function(seconds)
      sleeps, now = sleeps + 1, now + seconds
    end
    local view = new_views():view("web")
    local ready, message, err = view:ready(100)
    assert.is_false(ready)
    assert.matches("no answer from Consul yet", message)
    assert.equal("timeout", err.kind)
    assert.is_true(math.abs(now - START - 0.1) < 0.021, now - START)
    sleeps, _G.ngx.worker.exiting = 0, function()
      return sleeps == 3
    end
    assert.is_false((view:ready()))
    assert.equal(3, sleeps)
    sleeps = 0
    watch(new_views(), 2)
    assert.is_true(view:ready(0))
  end)

  describe("have texts that", function()
    it("are read whole while another version takes their place", function()
      local dict, number = new_dict(), 0
      texts.write(dict, "web", "text 0")
      local reader = coroutine.running()
      on_access = function()
        if number < 6 and reader == coroutine.running() then
          local before = on_access
          on_access = function() end
          number = number + 1
          texts.write(dict, "web", "text " .. number)
          on_access = before
        end
      end
      assert.equal("text 6", (texts.read(dict, "web")))
    end)

    it("are written whole or not at all", function()
      local text = ("x"):rep(40)
      for limit = 0, 200 do
        local dict = new_dict(limit)
        local first = texts.write(dict, "a", text)
        assert.equal(first and text or nil, (texts.read(dict, "a")))
        local second = texts.write(dict, "a", text .. "longer")
        assert.equal(second and text .. "longer" or first and text or nil, (texts.read(dict, "a")))
        local added = texts.add(dict, "b", "y")
        assert.equal(added and "y" or nil, (texts.read(dict, "b")))
        local count = 0
        for _, key in ipairs(dict:get_keys()) do
          count = count + (key:find("^t:") and 1 or 0)
        end
        assert.equal(((first or second) and 1 or 0) + (added and 1 or 0), count)
      end
    end)

    it("take powers of two bytes, and above half a page whole pages", function()
      -- 80 bytes for nginx, 16 for the key; a second entry has the version.
      assert.equal(128 + 128, texts.size_of("web", 32))
      assert.equal(256 + 128, texts.size_of("web", 33))
      assert.equal(2048 + 128, texts.size_of("web", 2048 - 96))
      assert.equal(4096 + 128, texts.size_of("web", 2049 - 96))
      -- More is in parts.
      assert.equal(4096 + 128 + 128, texts.size_of("web", 4096 - 96))
      assert.equal(3 * 4096 + 2048 + 128, texts.size_of("web", 3 * 4000 + 2048 - 96))
    end)

    -- The length of a text that fills its parts; none of them is larger.
    local PART = 4000

    it("are in parts that each have a page, and read back at any length", function()
      local dict = new_dict()
      for _, length in ipairs({ 0, 1, PART - 1, PART, PART + 1, 3 * PART - 1, 3 * PART, 3 * PART + 1 }) do
        local text = ("0123456789"):rep(math.ceil(length / 10)):sub(1, length)
        local version = assert(texts.write(dict, "web", text))
        assert.equal(text, (texts.read(dict, "web")))
        assert.equal(version, texts.write(dict, "web", text))
        local bytes, count = 0, 0
        for _, key in ipairs(dict:get_keys()) do
          if key:find("^t:") then
            bytes, count = bytes + #dict:get(key), count + 1
            assert.is_true(#dict:get(key) <= PART)
          end
        end
        assert.same({ length, math.floor(length / PART) + 1 }, { bytes, count })
      end
      texts.remove(dict, "web")
      assert.same({ "versions" }, dict:get_keys())
    end)

    it("are read whole also in parts, while another version takes their place", function()
      local dict, number = new_dict(), 0
      local function text(n)
        return (n .. "."):rep(PART)
      end
      texts.write(dict, "web", text(0))
      local accesses = 0
      on_access = function()
        accesses = accesses + 1
        if number < 6 and accesses % 2 == 0 then
          local before = on_access
          on_access = function() end
          number = number + 1
          texts.write(dict, "web", text(number))
          on_access = before
        end
      end
      assert.equal(text(6), (texts.read(dict, "web")))
    end)

    it("are written whole or not at all also in parts", function()
      local short, long = ("x"):rep(100), ("y"):rep(3 * PART)
      for limit = 200, 4 * PART, 500 do
        local dict = new_dict(limit)
        assert(texts.write(dict, "web", short))
        local is_written = texts.write(dict, "web", long)
        assert.equal(is_written and long or short, (texts.read(dict, "web")))
        assert.equal(is_written and 6 or 3, #dict:get_keys())
      end
    end)

    it("leave no part when a worker was killed at any access", function()
      if support.interpreter == "lua5.1" then
        return pending("SKIPPED: plain Lua 5.1 cannot stop a coroutine within pcall; nginx has LuaJIT")
      end
      local points = 0
      while true do
        local dict, accesses = new_dict(), 0
        on_access = function() end
        texts.write(dict, "web", ("x"):rep(2 * PART))
        local thread = coroutine.create(function()
          texts.write(dict, "web", ("y"):rep(3 * PART))
        end)
        on_access = function()
          if coroutine.running() == thread then
            accesses = accesses + 1
            if accesses > points then
              coroutine.yield()
            end
          end
        end
        assert(coroutine.resume(thread))
        if coroutine.status(thread) == "dead" then
          break
        end
        points = points + 1
        on_access = function() end
        assert(texts.write(dict, "web", "whole"))
        texts.sweep(dict, { web = true }, function()
          return true
        end)
        assert.equal("whole", (texts.read(dict, "web")))
        -- The text, its version, and the last one given out.
        assert.equal(3, #dict:get_keys())
      end
      assert.is_true(points > 10, points .. " points")
    end)
  end)

  -- A worker that comes to watch after another that saw instance 2 of web and 1 of api.
  local function second_worker()
    lists.api = { instance(1) }
    watch(new_views(), 3)
    return new_views()
  end

  for what, instances in pairs({ ["no instances of a service"] = {}, ["no such service"] = false }) do
    it(("keep the lists of the worker before for 30 s while Consul has %s"):format(what), function()
      local worker = second_worker()
      lists.api = instances or nil
      watch(worker, 40, {
        [25] = function()
          assert.equal("1", ports(worker, "api"))
          assert.is_true(worker:view("api"):age_s() >= 20)
        end,
      })
      assert.equal("", ports(worker, "api"))
      assert.equal("2", ports(worker, "web"))
    end)
  end

  for what, instances in pairs({ ["no instances of a service"] = {}, ["no such service"] = false }) do
    it(("keep no empty list of the worker before while Consul has %s"):format(what), function()
      lists.api = {}
      watch(new_views(), 3)
      local worker = new_views()
      lists.api = instances or nil
      now = now + 20
      watch(worker, 5)
      assert.equal("", ports(worker, "api"))
      assert.is_true(worker:view("api"):age_s() <= 2)
    end)
  end

  it("keep no list that Consul had shown to the same worker", function()
    local worker = second_worker()
    watch(worker, 6, {
      [3] = function()
        lists.api = nil
      end,
      [5] = function()
        assert.equal("", ports(worker, "api"))
      end,
    })
  end)

  it("write a dump file with the ages, from which the next nginx starts", function()
    dump_file = os.tmpname()
    os.remove(dump_file)
    age_s = 50
    local worker = new_views()
    watch(worker, 8, {
      [4] = function()
        lists.web = { instance(7) }
        texts.remove(worker.dict, "s:web")
      end,
    })
    now = now + 100
    _G.ngx.shared.consul = new_dict()
    local restarted = new_views()
    assert.equal("7", ports(restarted, "web"))
    assert.is_true(math.abs(restarted:view("web"):age_s() - worker:view("web"):age_s()) <= 4)
  end)

  it("start with a dump file that is larger than consul_ffi.read_file reads", function()
    write_dump({ web = 1 })
    local file = assert(io.open(dump_file, "a"))
    assert(file:write((" "):rep(2 ^ 20)))
    assert(file:close())
    assert.is_nil((consul_ffi.read_file(dump_file)))
    assert.equal("1", ports(new_views(), "web"))
  end)

  it("refuse a pipe as the dump file, without a wait for its writer", function()
    dump_file = os.tmpname()
    -- A reader has the writer go on, and so ends itself.
    local command = 'rm "%s" && mkfifo "%s" && { : >"%s" & }'
    local made = os.execute(command:gsub("%%s", dump_file))
    assert.is_true(made == 0 or made == true)
    local ran, why = pcall(new_views)
    if ran then
      error("it was read")
    end
    assert(io.open(dump_file, "r")):close()
    assert.matches("views.new: dump_file must be the path of a regular file, got the string", why, 1, true)
  end)

  it("remove what a worker left that was killed while it wrote the dump file", function()
    dump_file = os.tmpname()
    local rename, left = os.rename, nil
    local killed = new_views()
    rawset(os, "rename", function(from)
      left = from
      error("killed")
    end)
    local watched, why = pcall(watch, killed, 8)
    rawset(os, "rename", rename)
    assert(watched, why)
    assert(assert(io.open(left, "r")):close())
    _G.ngx.worker.pid = function()
      return 2
    end
    local other = new_views()
    now = now + 6
    watch(other, 8)
    assert.is_nil((io.open(left, "r")))
    assert.is_nil(other.dict:get("writing"))
    _G.ngx.shared.consul = new_dict()
    assert.equal("2", ports(new_views(), "web"))
  end)

  it("choose nothing by a filter that raises an error, and say it", function()
    local worker = views.new({
      dict = "consul",
      filter = function(name)
        return name == "web" or error("a defect")
      end,
    })
    watch(worker, 1)
    assert.is_true(chosen_by("web", {}))
    assert.is_false(chosen_by("api", {}))
    assert.matches("a defect", logged[1])
  end)

  it("keep their versions while the lists are the same, and no text of an earlier version", function()
    local worker, dict = new_views(), _G.ngx.shared.consul
    local version
    watch(worker, 20, {
      [2] = function()
        version = worker:view("web"):version()
      end,
      [4] = function()
        assert.equal(version, texts.write(dict, "s:web", dict:get("t:" .. version)))
        for port = 3, 9 do
          assert(texts.write(dict, "s:web", ('[{"address":"10.0.0.1","port":%d}]'):format(port)))
        end
      end,
    })
    assert.are_not.equal(version, worker:view("web"):version())
    local count = 0
    for _, key in ipairs(dict:get_keys()) do
      count = count + (key:find("^t:") and 1 or 0)
    end
    -- That of the list, of the names, and the room for these.
    assert.equal(3, count)
  end)

  it("do not keep a view by a name that no service has", function()
    local worker = second_worker()
    assert.equal(worker:view("web"), worker:view("web"))
    assert.are_not.equal(worker:view("none"), worker:view("none"))
  end)

  describe("have a lease that", function()
    local lease

    before_each(function()
      lease = require("consul_ffi.openresty.lease")
    end)

    local function new_lease(pid)
      _G.ngx.worker.pid = function()
        return pid
      end
      return lease.new(_G.ngx.shared.consul)
    end

    it("one worker has as long as it renews it, and another one five seconds later", function()
      local one, other = new_lease(1), new_lease(2)
      for _ = 1, 20 do
        assert.is_true(one:is_held())
        assert.is_false(other:is_held())
        now = now + 1
      end
      now = now + 3.5
      assert.is_false(other:is_held())
      now = now + 0.6
      assert.is_true(other:is_held())
      assert.is_false(one:is_held())
    end)

    it("another one has at once when it is released, and nobody else can release", function()
      local one, other = new_lease(1), new_lease(2)
      assert.is_true(one:is_held())
      other:release()
      assert.is_false(other:is_held())
      one:release()
      assert.is_true(other:is_held())
    end)

    it("one of two has that see its end at once", function()
      local one, other = new_lease(1), new_lease(2)
      local took, accesses = nil, 0
      local thread = coroutine.create(function()
        took = one:is_held()
      end)
      assert.is_true(new_lease(3):is_held())
      now = now + 6
      -- One has read the number of terms, and when the lease was renewed.
      on_access = function()
        if coroutine.running() == thread then
          accesses = accesses + 1
          if accesses == 10 then
            coroutine.yield()
          end
        end
      end
      assert(coroutine.resume(thread))
      assert.equal("suspended", coroutine.status(thread))
      assert.is_true(other:is_held())
      assert(coroutine.resume(thread))
      assert.is_false(took)
      assert.is_true(other:is_held())
    end)
  end)

  it("have an age also for a service that Consul does not list", function()
    local worker = new_views()
    watch(worker, 1)
    now = now + 10
    assert.equal("", ports(worker, "none"))
    assert.equal(worker:view("web"):age_s(), worker:view("none"):age_s())
  end)

  for what, json in pairs({
    ["without a port"] = '{"address":"10.0.0.1"}',
    ["without an address"] = '{"port":1}',
    ["with a weight that is not a number"] = '{"address":"10.0.0.1","port":1,"weight":"heavy"}',
    ["with an empty address"] = '{"address":"","port":1}',
    ["with a port that is not an integer"] = '{"address":"10.0.0.1","port":80.5}',
    ["with a negative port"] = '{"address":"10.0.0.1","port":-1}',
    ["with a port of 65536"] = '{"address":"10.0.0.1","port":65536}',
    ["with a negative weight"] = '{"address":"10.0.0.1","port":1,"weight":-1}',
    ["with an id that is not text"] = '{"address":"10.0.0.1","port":1,"id":[1]}',
    ["with meta that is not a table"] = '{"address":"10.0.0.1","port":1,"meta":3}',
  }) do
    it("do not start with a dump that has an instance " .. what, function()
      dump_file = os.tmpname()
      local file = assert(io.open(dump_file, "w"))
      assert(file:write(('{"services":{"web":{"confirmed":%d,"instances":[%s]}}}'):format(START, json)))
      assert(file:close())
      local list = new_views():view("web"):all()
      assert.is_false(list)
      assert.matches("an instance of its service web is not one", logged[1])
    end)
  end

  for _, instances in ipairs({ '{"a":{"address":"10.0.0.1","port":1}}', '{"address":"10.0.0.1","port":1}', '"web"' }) do
    it("do not start with a dump that has no list of instances, but " .. instances, function()
      dump_file = os.tmpname()
      local file = assert(io.open(dump_file, "w"))
      assert(file:write(('{"services":{"web":{"confirmed":%d,"instances":%s}}}'):format(START, instances)))
      assert(file:close())
      assert.is_nil(new_views():names())
      assert.matches("its service web is not one", logged[1])
    end)
  end

  it("have no names from a dump file without a list", function()
    write_dump({})
    assert.is_nil(new_views():names())
    assert.matches("starts without .*: it has no list that is wanted", logged[1])
  end)

  it("refuse in words what is not a service or a limit", function()
    local worker = new_views()
    for _, service in ipairs({ {}, 1 }) do
      assert.error_matches(function()
        worker:view(service)
      end, "^views:view: service must be a string")
    end
    for _, limit in ipairs({ "1", 0 / 0, {} }) do
      assert.error_matches(function()
        worker:view("web"):ready(limit)
      end, "^ready: timeout_ms must be a number of milliseconds")
    end
  end)

  it("have no age before Consul has answered", function()
    local age, _, err = new_views():view("web"):age_s()
    assert.is_false(age)
    assert.equal("timeout", err.kind)
  end)
end)
