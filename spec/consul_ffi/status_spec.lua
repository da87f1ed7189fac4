local consul_ffi = require("consul_ffi")
local support = require("spec.support")

-- The status and the body of the answer to a request; the status is 0 if nothing answers.
local function get(server, path, options)
  local command = ("curl -s -m 10 -w '\\n%%{http_code}' %s 'http://%s%s'"):format(options or "", server.address, path)
  local answer = io.popen(command)
  local text = answer:read("*a")
  answer:close()
  local body, status = text:match("^(.*)\n(%d+)$")
  return tonumber(status), body
end

describe("serve_status", function()
  local opened

  local function serve(...)
    local server = assert(consul_ffi.serve_status(...))
    opened[#opened + 1] = server
    return server
  end

  before_each(function()
    opened = {}
  end)

  after_each(function()
    for _, server in ipairs(opened) do
      server:close()
    end
  end)

  it("shows a process on loopback", function()
    local server = serve()
    assert.matches("^127%.0%.0%.1:%d+$", server.address)
    assert.equal(("StatusServer(%s, open)"):format(server.address), tostring(server))
    assert.same({ 200, "live\n" }, { get(server, "/live") })
    -- A number is there from its first change on.
    consul_ffi.new({ simulate = true }):kv_get("key")
    local status, text = get(server, "/metrics")
    assert.equal(200, status)
    assert.matches("# TYPE consul_ffi_", text, 1, true)
    local page
    status, page = get(server, "/")
    assert.equal(200, status)
    assert.matches("<!doctype html>", page, 1, true)
    support.raises("port: a StatusServer has no method or field of this name", function()
      return server.port
    end)
  end)

  it("shows the nodes that run, whichever was first", function()
    local server, prefix = serve("127.0.0.1:0"), support.name("status")
    assert.equal(404, (get(server, "/cluster")))
    assert.equal(503, (get(server, "/ready")))
    local node = support.node(prefix, "n1")
    assert(node:start())
    assert.same({ 200, "ready\n" }, { get(server, "/ready") })
    assert.same({ 200, "n1 leads\n" }, { get(server, "/leader") })
    local status, text = get(server, "/cluster")
    local decoded, document = consul_ffi.json_decode(text)
    assert.is_true(status == 200 and decoded)
    assert.equal("n1", document.told_by)
    assert.equal("n1", document.nodes[1].id)
    assert.equal("live", document.nodes[1].state)
    assert(node:stop())
    support.eventually(function()
      collectgarbage()
      return (get(server, "/cluster")) == 404
    end)
    support.clean_up({ node }, prefix)
  end)

  it("answers for its own names alone, and to GET and HEAD", function()
    local server = serve(nil, { hosts = { "status.example", "other.example" } })
    assert.equal(200, (get(server, "/live", "-H 'Host: other.example:80'")))
    assert.equal(421, (get(server, "/live", "-H 'Host: evil.example'")))
    assert.equal(405, (get(server, "/live", "-X POST")))
    assert.equal(200, (get(serve(nil, { hosts = "one.example" }), "/live", "-H 'Host: one.example'")))
  end)

  it("frees its address when it is closed", function()
    local server = serve()
    local address = server.address
    for _ = 1, 5 do
      assert.is_true(server:close())
      assert.equal(("StatusServer(%s, closed)"):format(address), tostring(server))
      assert.equal(0, (get(server, "/live")))
      server = serve(address)
      assert.equal(200, (get(server, "/live")))
    end
    assert.is_true(server:close())
    assert.is_true(server:close())
  end)

  it("ends with its last reference", function()
    local address = consul_ffi.serve_status().address
    support.eventually(function()
      collectgarbage()
      return (get({ address = address }, "/live")) == 0
    end)
  end)

  it("names what is wrong with an argument", function()
    local address = serve().address
    local success, message, err = consul_ffi.serve_status(address)
    assert.is_false(success)
    assert.equal("config", err.kind)
    local why = ('serve_status: address "%s" is in use by another program: choose another port'):format(address)
    assert.equal(why, message:sub(1, #why))
    success, message, err = consul_ffi.serve_status("127.0.0.1:65536")
    assert.is_false(success)
    assert.equal("config", err.kind)
    local bad = 'serve_status: address "127.0.0.1:65536" must be host:port, with a port from 0 to 65535'
    assert.equal(bad, message:sub(1, #bad))
    assert.equal("config", select(3, consul_ffi.serve_status("127.0.0.1")).kind)
    success, message, err = consul_ffi.serve_status("127.0.0.1:0", { hosts = { "a:80" } })
    assert.is_false(success)
    assert.equal("argument", err.kind)
    assert.matches("serve_status: hosts ", message, 1, true)
    for expected, arguments in pairs({
      ["serve_status: address must be"] = { 9100 },
      ['serve_status: unknown option "host"; did you mean "hosts"?'] = { "127.0.0.1:0", { host = "a" } },
      ["serve_status: hosts must be"] = { "127.0.0.1:0", { hosts = 1 } },
    }) do
      local raised = select(2, pcall(consul_ffi.serve_status, support.unpack(arguments)))
      assert.matches(expected, raised, 1, true)
    end
  end)
end)
