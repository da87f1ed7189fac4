-- The programs in docs/migrating-from-etcd.md work.
local support = require("spec.support")

local engine, version = support.interpreter, _VERSION:match("%d.*")
local compile = rawget(_G, "loadstring") or load

-- Returns the guide's code blocks in one language, in order.
local function blocks(language)
  local file = assert(io.open("docs/migrating-from-etcd.md"))
  local text, found = file:read("*a"), {}
  file:close()
  for block in text:gmatch("\n```" .. language .. "\n(.-)\n```") do
    found[#found + 1] = block
  end
  return found
end

-- Runs a program of the guide and returns the lines that it printed. On the simulated agent it adds the
-- option `simulate`.
local function run(program)
  local printed = {}
  local function print_line(...)
    local words = { ... }
    for i = 1, select("#", ...) do
      words[i] = tostring(words[i])
    end
    printed[#printed + 1] = table.concat(words, " ")
  end
  local function require_simulated(name)
    return {
      new = function(options)
        options.simulate = support.simulated
        return require(name).new(options)
      end,
    }
  end
  assert(compile("local print, require = ... " .. program))(print_line, require_simulated)
  return printed
end

-- Runs shell commands and returns what they printed; raises when one fails.
local function shell(program)
  local pipe = assert(io.popen("(set -e; " .. program .. "\n) 2>&1; echo $?"))
  local printed = pipe:read("*a")
  pipe:close()
  local output, status = printed:match("^(.-)\n?(%d+)\n$")
  assert(status == "0", printed)
  return output
end

describe("the guide from etcd", function()
  local consul, programs, commands

  before_each(function()
    consul, programs, commands = support.client(), blocks("lua"), blocks("sh")
    assert.same({ 4, 8 }, { #programs, #commands })
  end)

  after_each(function()
    for _, prefix in ipairs({ "workers/", "tsdb/cluster/" }) do
      consul:kv_delete_tree(prefix)
    end
    consul:close()
  end)

  it("configures Consul's address in two ways", function()
    run(programs[1])
    run(programs[2])
  end)

  it("shows the old calls #smoke", function()
    local printed = run(programs[3])
    assert.equal("/workers/w1 alive", printed[1])
    assert.is_nil(select(2, consul:kv_get("workers/w1")))
    assert.is_nil(select(2, consul:kv_get("cluster/config")))
  end)

  it("shows an old cluster #smoke", function()
    local printed = run(programs[4])
    assert.same({ "nodes: 1 leader: node-1" }, printed)
  end)

  it("installs the rock, which then is the module in use", function()
    if shell("command -v luarocks || echo none") == "none" then
      pending("SKIPPED: luarocks is missing")
    end
    local home = os.tmpname()
    os.remove(home)
    shell(("mkdir %s && cp -r etcd %s"):format(home, home))
    -- A rock consul_ffi of all users, as `sudo luarocks make` installs it, but without the module: the spec has its
    -- own.
    shell(([[
      cd %s && mkdir rock && cat >rock/consul_ffi-scm-1.rockspec <<'END'
package = "consul_ffi"
version = "scm-1"
source = { url = "." }
build = { type = "builtin", modules = {} }
END
      printf 'rocks_trees = { { name = "user", root = "%%s/.luarocks" }, { name = "system", root = "%%s/system" } }\n' \
        "$PWD" "$PWD" >config.lua
      cd rock && LUAROCKS_CONFIG=../config.lua luarocks --lua-version=%s --tree=../system make
    ]]):format(home, version))
    -- One shell, as a user has it, which finds the rock only where luarocks says. Between both commands are
    -- consul-migrate's.
    local printed = shell(table.concat({
      ("export HOME=%s LUAROCKS_CONFIG=%s/config.lua LUA=%s"):format(home, home, engine),
      "export CONSUL_HTTP_ADDR=127.0.0.1:8501 LUA_PATH=';;'; checkout=$PWD",
      "cd " .. home,
      (commands[1]:gsub("lua%-version=5%.1", "lua-version=" .. version)),
      'cd "$checkout"',
      commands[7],
    }, "\n"))
    assert.matches("http://127.0.0.1:8501", printed, 1, true)
    shell("rm -r " .. home)
  end)
end)
