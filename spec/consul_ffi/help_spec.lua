-- consul_ffi.help: the reference of a name, for a REPL.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("help", function()
  local print_before = print
  local printed

  before_each(function()
    printed = {}
    rawset(_G, "print", function(text)
      printed[#printed + 1] = text
    end)
  end)

  after_each(function()
    rawset(_G, "print", print_before)
  end)

  -- Its output for a name.
  local function help(name)
    printed = {}
    consul_ffi.help(name)
    return table.concat(printed, "\n")
  end

  it("prints a method with its parameters, options and results #smoke", function()
    local text = help("kv_put")
    assert.matches("client:kv_put(key, value, options)\n\n  Writes one key.\n", text, 1, true)
    assert.matches("\n  key +%(string%) The key%.\n", text)
    assert.matches("\n    cas +%(integer|string, optional%) Write only if the key has this modify index", text)
    assert.matches("\n    timeout_ms +%(number, optional%) The time limit of the call", text)
    assert.matches("\n    dc +%(string, optional%) The datacenter", text)
    assert.matches("\n    meta: consul_ffi.Meta|consul_ffi.Error", text, 1, true)
  end)

  it("knows every function of the module and every method of a client", function()
    for name, member in pairs(consul_ffi) do
      if type(member) == "function" then
        assert.matches("consul_ffi." .. name .. "(", help("consul_ffi." .. name), 1, true)
      end
    end
    assert.equal(help("client:kv_get"), help("ConsulClient:kv_get"))
    local count = 0
    for name, member in pairs(consul_ffi.ConsulClient) do
      -- The constructors have their place with the module; destroy is a name of older programs.
      if type(member) == "function" and name ~= "new" and not name:find("^_") then
        assert.matches("client:" .. name .. "(", help("client:" .. name), 1, true)
        count = count + 1
      end
    end
    assert.is_true(count > 150, count)
  end)

  it("prints each function of a name that several objects have", function()
    local text = help("close")
    for _, title in ipairs({ "client:close(", "watch:close(", "view:close(" }) do
      assert.matches(title, text, 1, true)
    end
  end)

  it("lists the functions of an object by its class or by the name in the examples", function()
    for _, name in ipairs({ "Lock", "lock" }) do
      local text = help(name)
      assert.matches("  lock:acquire(options)\n      Waits until it is held.", text, 1, true)
      assert.matches("\n  lock:release(", text, 1, true)
    end
  end)

  it("says without a name how to ask", function()
    assert.matches('consul_ffi.help("kv_put")', help(), 1, true)
    assert.equal(help(), help(""))
  end)

  it("refuses what it does not know, with the nearest name", function()
    support.raises('nothing is called "kv_putt"; did you mean client:kv_put?', help, "kv_putt")
    support.raises('nothing is called "lock:aquire"; did you mean lock:acquire', help, "lock:aquire")
    support.raises('nothing is called "%d[.*"', help, "%d[.*")
    support.raises("name must be a string, not table", help, {})
    support.raises("name must be a string, not number", help, 1)
  end)

  it("names the file that is missing", function()
    local path = package.path
    help("kv_put")
    package.path = "./no.such/?.lua"
    local ran, message = pcall(help, "kv_put")
    package.path = path
    assert.is_false(ran)
    assert.matches("the annotations are not on package.path", message)
  end)
end)
