local consul_ffi = require("consul_ffi")

-- The samples of a text, by name and labels.
local function samples(text)
  local found = {}
  for line in text:gmatch("[^\n]+") do
    if line:sub(1, 1) ~= "#" then
      local name, number = line:match("^(%S+) (%S+)$")
      assert.is_nil(found[name], line)
      found[name] = assert(tonumber(number), line)
    end
  end
  return found
end

describe("metrics", function()
  local function requests(outcome)
    local name = ('consul_ffi_client_requests_total{endpoint="kv_get",outcome="%s"}'):format(outcome)
    return samples(consul_ffi.metrics())[name] or 0
  end

  it("counts calls by method and outcome", function()
    local client = consul_ffi.new({ simulate = "metrics" })
    client:kv_put("secret-key", "secret-value")
    local before = requests("ok")
    for _ = 1, 3 do
      client:kv_get("secret-key")
    end
    assert.equal(before + 3, requests("ok"))
    assert.is_nil(consul_ffi.metrics():find("secret", 1, true))
  end)

  it("counts failures by their kind", function()
    local client = consul_ffi.new({ endpoints = { "http://127.0.0.1:1" }, timeout_ms = 500, retry_count = 0 })
    local before = requests("connect")
    assert.is_false((client:kv_get("a")))
    assert.equal(before + 1, requests("connect"))
  end)

  it("is in the format that is asked for, with its content type", function()
    local text, content_type = consul_ffi.metrics()
    assert.is_nil(text:find("# EOF", 1, true))
    assert.equal("text/plain; version=0.0.4; charset=utf-8", content_type)
    text, content_type = consul_ffi.metrics({ format = "openmetrics" })
    assert.truthy(text:find("\n# EOF\n$"))
    assert.equal("application/openmetrics-text; version=1.0.0; charset=utf-8", content_type)
  end)

  it("measures durations by the clock of the client", function()
    local sim = consul_ffi.simulator("metrics-clock", { clock = "manual" })
    local client = consul_ffi.new({ simulate = "metrics-clock" })
    sim:fault({ latency_ms = 300 })
    local function durations()
      local found, name = samples(consul_ffi.metrics()), "consul_ffi_client_request_duration_seconds"
      local function of(bound)
        return found[name .. '_bucket{le="' .. bound .. '",endpoint="status_peers"}'] or 0
      end
      return found[name .. '_sum{endpoint="status_peers"}'] or 0, of("0.25"), of("0.5")
    end
    local sum, short, long = durations()
    assert.is_true((client:status_peers()))
    local sum_after, short_after, long_after = durations()
    assert.is_true(math.abs(sum_after - sum - 0.3) < 1e-6)
    assert.same({ short, long + 1 }, { short_after, long_after })
  end)

  it("counts the locks that are held now", function()
    local client = consul_ffi.new({ simulate = "metrics" })
    local function locks()
      local found = samples(consul_ffi.metrics())
      local function of(metric)
        return found["consul_ffi_locks_" .. metric .. '{kind="lock"}']
      end
      return of("held"), of("acquired_total"), of("released_total")
    end
    local held, acquired, released = locks()
    local lock = client:lock("metrics/lock")
    assert.is_true((lock:acquire()))
    assert.same({ held + 1, acquired + 1, released }, { locks() })
    assert.is_true((lock:release()))
    assert.same({ held, acquired + 1, released + 1 }, { locks() })
  end)

  it("takes no memory, however often it is called", function()
    local function rss()
      local file = assert(io.open("/proc/self/statm"))
      local pages = tonumber(file:read("*a"):match("^%d+ (%d+)"))
      file:close()
      return pages * 4096
    end
    local client = consul_ffi.new({ simulate = "metrics" })
    client:kv_put("a", "b")
    local function render(count)
      for _ = 1, count do
        consul_ffi.metrics()
      end
      collectgarbage()
      collectgarbage()
    end
    render(1000)
    local before = rss()
    render(1000)
    -- Pages that stay would be 7 MB and more; the threads of other specs take some memory too.
    assert.is_true(rss() - before < 5e6, rss() - before .. " bytes more")
  end)

  it("raises an error for an option that it does not have", function()
    assert.has_error(function()
      consul_ffi.metrics({ formt = "openmetrics" })
    end, 'metrics: unknown option "formt"; did you mean "format"?')
    assert.has_error(function()
      consul_ffi.metrics({ format = "json" })
    end)
    assert.has_error(function()
      consul_ffi.metrics("json")
    end)
  end)
end)
