-- Bodies of requests as a program writes them.
local support = require("spec.support")
local consul_ffi = require("consul_ffi")

describe("a body", function()
  local client, key

  support.each_test(function(...)
    client, key = ...
  end)

  local function resolver(own)
    return support.merged({ Kind = "service-resolver", Name = key }, own)
  end

  local function stored()
    return select(2, assert(client:config_read("service-resolver", key)))
  end

  after_each(function()
    local other = support.client()
    assert(other:config_delete("service-resolver", key))
    other:close()
  end)

  it("has seconds where Consul has a duration, at any depth #smoke", function()
    assert(client:config_write(resolver({ ConnectTimeout = 5 })))
    assert.equal("5s", stored().ConnectTimeout)
    assert(client:config_write(resolver({ ConnectTimeout = "1m30s" })))
    assert.equal("1m30s", stored().ConnectTimeout)
    local _, message = client:config_write(resolver({ Subsets = { v1 = { ConnectTimeout = -1 } } }))
    assert.matches("entry.Subsets.v1.ConnectTimeout is -1: it must be a number of seconds", message, 1, true)
  end)

  it("has Consul's names in snake_case, but the program's own as they are", function()
    assert(client:config_write(resolver({ connect_timeout = 5, subsets = { ["my-own"] = { only_passing = true } } })))
    assert.equal("5s", stored().ConnectTimeout)
    assert.is_true(stored().Subsets["my-own"].OnlyPassing)
    assert.has_error(function()
      client:config_write(resolver({ connect_timeout = 5, ConnectTimeout = 6 }))
    end, "config_write: entry has ConnectTimeout twice, in two spellings")
  end)

  it("has an empty table for an empty list, where Consul has a list", function()
    local service = { Service = "consul", Tags = {} }
    local _, id = assert(client:query_create({ Name = key, Service = service }))
    assert(client:query_delete(id))
  end)

  it("has no list with a hole, or with keys that are not 1, 2, 3 …", function()
    local lists = {}
    local function list(items)
      lists[#lists + 1] = items
      return items
    end
    list({ "a", nil, "c" })
    list({ nil, "b" })
    list({ [0] = "z" })
    list({ [2] = "b" })
    list({ "a", "b", nil, "d" })[1.5] = "x"
    list({ "a", nil, "c" })[-1] = "z"
    list({ "a", nil, "c" })[0] = "z"
    list({ "a", "b" })[2 ^ 53] = "z"
    list({ "a" })[0.5] = "z"
    list({ "a", "b" })[math.huge] = "z"
    -- The first item at 0, and a removed one: as many keys as the length of it says.
    local shifted = list({})
    for i, tag in ipairs({ "a", "b", "c", "d", "e" }) do
      shifted[i - 1] = tag
    end
    shifted[3] = nil
    for _, items in ipairs(lists) do
      for _, value in ipairs({ { name = key, tags = items }, { name = key, meta = { a = items } } }) do
        assert.has_error(function()
          client:agent_service_register(value)
        end, "agent_service_register: a list has holes or does not begin at 1")
      end
      assert.has_error(function()
        consul_ffi.json_encode({ items })
      end, "a list has holes or does not begin at 1")
    end
  end)

  it("has a list that is marked as one where it is sent as it is", function()
    local encode = consul_ffi.json_encode
    assert.same({ true, '{"a":[]}' }, { encode({ a = consul_ffi.array() }) })
    assert.same({ true, '{"a":{}}' }, { encode({ a = {} }) })
    local list = consul_ffi.array({ "one" })
    assert.same({ true, '["one"]' }, { encode(list) })
    table.remove(list)
    assert.same({ true, "[]" }, { encode(list) })
    assert.same({ true, '{"a":[]}' }, { encode((select(2, consul_ffi.json_decode('{"a":[]}')))) })
    for given, named in pairs({ [5] = "a number", ["x"] = "a string", [{ a = 1 }] = "a table with names" }) do
      assert.has_error(function()
        consul_ffi.array(given)
      end, "array: list must be a list, got " .. named)
    end
  end)
end)
