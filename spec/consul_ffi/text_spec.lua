-- JSON, TOML and files as Lua values.
local consul_ffi = require("consul_ffi")
local support = require("spec.support")

describe("base64", function()
  it("encodes and decodes bytes", function()
    for text, encoded in pairs({ [""] = "", ["\0\255"] = "AP8=", ["test val"] = "dGVzdCB2YWw=" }) do
      assert.equal(encoded, consul_ffi.base64_encode(text))
      assert.same({ true, text }, { consul_ffi.base64_decode(encoded) })
    end
  end)

  it("refuses other text", function()
    for _, text in ipairs({ "AP8", "AP8=\n", "*", "=" }) do
      assert.equal("decode", support.kind(consul_ffi.base64_decode(text)))
    end
    for _, name in ipairs({ "base64_encode", "base64_decode" }) do
      support.raises(name .. ": text must be a string, got a number", consul_ffi[name], 1)
    end
  end)
end)

describe("json_decode", function()
  it("returns the value that a text encodes", function()
    local success, value = consul_ffi.json_decode('{"a":[1,2.5,"x"],"b":true}')
    assert.is_true(success)
    assert.same({ a = { 1, 2.5, "x" }, b = true }, value)
    assert.equal("text", select(2, consul_ffi.json_decode('"text"')))
  end)

  it("returns an error for invalid JSON, and raises when the argument is not a string", function()
    assert.equal("decode", support.kind(consul_ffi.json_decode("{")))
    assert.has_error(function()
      consul_ffi.json_decode(1)
    end, "json_decode: text must be a string, got a number")
  end)
end)

describe("toml_decode", function()
  it("returns the values, and the line of each", function()
    local success, value, lines = consul_ffi.toml_decode("[cluster]\nmin_nodes = 2\n\n[consul]\nservers = ['a', 'b']\n")
    assert.is_true(success)
    assert.same({ cluster = { min_nodes = 2 }, consul = { servers = { "a", "b" } } }, value)
    assert.same({ 2, 5 }, { lines["cluster.min_nodes"], lines["consul.servers"] })
  end)

  it("names line and column of an error", function()
    local success, message, err = consul_ffi.toml_decode("a = 1\nb = \n")
    assert.equal("decode", support.kind(success, message, err))
    assert.matches("^line 2, column 5: ", message)
  end)
end)

describe("read_file", function()
  it("returns the bytes of a file of up to a mebibyte, or nil and the reason", function()
    local path = os.tmpname()
    finally(function()
      os.remove(path)
    end)
    local function write(text)
      local file = assert(io.open(path, "wb"))
      file:write(text)
      file:close()
    end
    local most = ("\0\255"):rep(2 ^ 19)
    write(most)
    assert.is_true(consul_ffi.read_file(path) == most)
    write(most .. "x")
    assert.same({ nil, path .. ": it has more than 1048576 bytes" }, { consul_ffi.read_file(path) })
    local _, message = consul_ffi.read_file("/dev/zero")
    assert.equal("/dev/zero: it is not a regular file but a character device", message)
  end)
end)
