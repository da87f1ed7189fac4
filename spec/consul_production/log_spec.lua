-- The manager's log file, which is rotated by size, count and age, and its audit log.
local log = require("consul_production.log")
local managers = require("spec.consul_production.support")
local support = require("spec.support")

-- 2026-11-20T22:30:00Z
local NOW = 1795213800

describe("a log file", function()
  local path, now, opened

  local function open(given)
    local all = { path = path, level = "INFO", max_bytes = 100, max_backups = 2, max_age_days = 7, now = function()
      return now
    end }
    for name, value in pairs(given or {}) do
      all[name] = value
    end
    opened = assert(log.open(all))
    return opened
  end

  before_each(function()
    path, now = os.tmpname(), NOW
  end)

  after_each(function()
    opened:close()
    for _, name in ipairs({ path, path .. ".1", path .. ".2", path .. ".3" }) do
      os.remove(name)
    end
  end)

  it("writes one line with time and level for each message at its level or above", function()
    local to = open()
    to:write("DEBUG", "below the level")
    to:write("WARN", "two\nlines")
    assert.equal("2026-11-20T22:30:00Z WARN  two lines\n", managers.read(path))
  end)

  it("appends to an existing file", function()
    open():write("INFO", "first")
    opened:close()
    open():write("INFO", "second")
    assert.matches("first\n.*second\n$", managers.read(path))
  end)

  it("is rotated by size, and keeps max_backups rotated files", function()
    local to = open()
    for i = 1, 9 do
      to:write("INFO", ("line %d %s"):format(i, ("x"):rep(20)))
    end
    -- Two lines of 54 bytes are more than 100, so each file has one.
    assert.matches("line 9", managers.read(path), 1, true)
    assert.matches("line 8", managers.read(path .. ".1"), 1, true)
    assert.matches("line 7", managers.read(path .. ".2"), 1, true)
    assert.is_nil(managers.read(path .. ".3"))
  end)

  it("keeps no rotated files when max_backups is 0", function()
    local to = open({ max_backups = 0 })
    for i = 1, 5 do
      to:write("INFO", ("line %d %s"):format(i, ("x"):rep(40)))
    end
    assert.matches("line 5", managers.read(path), 1, true)
    assert.is_nil(managers.read(path .. ".1"))
  end)

  it("removes rotated files by age when it is opened and when it is rotated", function()
    managers.write(path .. ".1", "young\n")
    managers.write(path .. ".2", "old\n")
    assert(os.execute("touch -d '8 days ago' " .. path .. ".2"))
    local to = open({ max_backups = 3 })
    assert.is_string(managers.read(path .. ".1"))
    assert.is_nil(managers.read(path .. ".2"))
    assert(os.execute("touch -d '8 days ago' " .. path .. ".1"))
    to:write("INFO", ("x"):rep(60))
    to:write("INFO", ("y"):rep(60))
    assert.matches("xxx", managers.read(path .. ".1"), 1, true)
    assert.is_nil(managers.read(path .. ".2"))
  end)

  it("may be a pipe, which delays nothing and loses no line without a count", function()
    os.remove(path)
    assert(os.execute("mkfifo " .. path))
    local to = open()
    to:write("INFO", "nobody reads it")
    assert(os.execute(("head -n 1 < %s > %s.1 &"):format(path, path)))
    support.eventually(function()
      to:write("INFO", "heard")
      return (managers.read(path .. ".1") or ""):find("INFO  heard left_out=%d+\n$")
    end)
    -- No process reads it any more.
    to:write("INFO", "after")
  end)

  it("names the reason when the file cannot be opened", function()
    local made, why = log.open({ path = "/nonexistent/log" })
    assert.is_nil(made)
    assert.matches("/nonexistent/log: No such file", why, 1, true)
    open()
  end)
end)

describe("a log that is not a file, a character device or a pipe", function()
  after_each(managers.close)

  it("is refused by the name of its option and its path", function()
    for option, given in pairs({
      ["monitoring.log_file"] = { monitoring = { log_file = "/tmp" } },
      ["security.audit_log_file"] = { security = { audit_enabled = true, audit_log_file = "/tmp" } },
    }) do
      local success, raised = pcall(managers.started, given)
      assert.is_false(success)
      local why = "/tmp: it is a directory, not a regular file, a character device or a pipe"
      assert.equal(("consul_production_config: init: %s: %s"):format(option, why), raised)
    end
    managers.started({ monitoring = { log_file = "/dev/null" } })
  end)
end)

describe("the audit log", function()
  after_each(managers.close)

  it("records time, node, operation, key and result of each call, but no values and no tokens", function()
    local path = os.tmpname()
    local manager = managers.started({
      cluster = { node_id = "auditor" },
      consul = { acl_token = "tok-s3cret" },
      security = { audit_enabled = true, audit_log_file = path },
    })
    manager:store_data("stocks/A", "val-s3cret")
    manager:store_data("/bad", { price = "val-s3cret" })
    manager:read_data("stocks/A")
    manager:read_data('missing "one"')
    manager:reload_config({ cluster = { min_nodes = 0 } })
    manager:cleanup()
    local text, lines = managers.read(path), {}
    for line in text:gmatch("[^\n]+") do
      assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ who=auditor operation=", line)
      table.insert(lines, line:match("operation=(.*)"))
    end
    assert.same({
      "init result=ok",
      'store_data key="stocks/A" result=ok',
      'store_data key="/bad" result=argument',
      'read_data key="stocks/A" result=ok',
      'read_data key="missing \\"one\\"" result=not_found',
      "reload_config result=config",
      "cleanup result=ok",
    }, lines)
    assert.is_nil(text:find("s3cret", 1, true))
    os.remove(path)
  end)
end)
