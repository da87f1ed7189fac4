-- Semaphores: a limited number of holders at a time.
local support = require("spec.support")

describe("a semaphore", function()
  local clients, opened, prefix

  before_each(function()
    clients = { support.client(), support.client(), support.client() }
    opened = { support.unpack(clients) }
    prefix = support.name("semaphore")
  end)

  after_each(function()
    support.clean_up(opened, prefix)
  end)

  -- Returns a client's semaphore. The reference in `opened` keeps it from being collected.
  local function permit(i, limit)
    opened[#opened + 1] = assert(clients[i]:semaphore(prefix, limit or 2))
    return opened[#opened]
  end

  -- The limit and the holders' sessions in the semaphore's document, whose layout is the Go client's.
  local function document()
    local _, text = assert(clients[3]:kv_get(prefix .. "/.lock", { consistent = true }))
    local holders = {}
    for session in text:match('"Holders":(%b{})'):gmatch('"([^"]+)":true') do
      holders[#holders + 1] = session
    end
    return tonumber(text:match('"Limit":(%d+)')), holders
  end

  it("has as many holders as permits, and hands a permit over to a waiter #smoke", function()
    local one, two, three = permit(1), permit(2), permit(3)
    assert(one:acquire({ wait_s = 10 }))
    assert(two:acquire({ wait_s = 10 }))
    assert.is_true(one:is_held() and two:is_held())
    local success, message, err = three:acquire({ try = true })
    assert.equal("conflict", support.kind(success, message, err))
    local limit, holders = document()
    assert.same({ 2, 2 }, { limit, #holders })
    assert.is_true((three:start()))
    assert.is_nil(three:next_event(100))
    local token = two:token()
    assert(one:release())
    local event, later = support.event(three)
    assert.equal("acquired", event)
    assert.is_true(later > token)
    assert.same({ false, true, true }, { one:is_held(), two:is_held(), three:is_held() })
  end)

  it("sets the flags of the Go client's semaphores on its key", function()
    assert(permit(1):acquire())
    assert.equal("16210313421097356768", select(3, clients[1]:kv_get(prefix .. "/.lock")).flags)
  end)

  it("cannot be acquired by a client that holds a permit already", function()
    assert(permit(1):acquire())
    assert.equal("conflict", support.kind(permit(1):acquire({ wait_s = 1 })))
  end)

  it("cannot be acquired with another limit than the holders'", function()
    assert(permit(1):acquire())
    local success, message, err = permit(2, 3):acquire({ try = true })
    assert.equal("conflict", support.kind(success, message, err))
    local why = "semaphore %q: its limit is 2, not 3: another one counts when nobody holds it"
    assert.equal(why:format(prefix), message)
  end)

  it("does not touch a key that is not a semaphore's", function()
    assert(clients[1]:kv_put(prefix .. "/.lock", "mine", { flags = 7 }))
    local success, message, err = permit(1):acquire({ wait_s = 5 })
    assert.equal("conflict", support.kind(success, message, err))
    assert.matches("the key exists and is not a semaphore's", message, 1, true)
    assert.equal("mine", (select(2, clients[1]:kv_get(prefix .. "/.lock"))))
  end)

  it("leaves neither session nor key behind when a single attempt fails", function()
    assert(permit(1):acquire())
    assert(permit(2):acquire())
    assert.equal("conflict", support.kind(permit(3):acquire({ try = true })))
    assert.equal(3, #select(2, assert(clients[1]:kv_keys(prefix .. "/", { consistent = true }))))
  end)

  it("is lost when the holder's session is destroyed, and the permit goes to another", function()
    local one, two, three = permit(1), permit(2), permit(3)
    assert(one:acquire())
    local _, holders = document()
    assert(two:acquire())
    assert(clients[3]:session_destroy(holders[1]))
    local event = support.event(one)
    assert.equal("lost", event)
    assert.is_false(one:is_held())
    assert.is_true((three:acquire({ wait_s = 15 })))
    assert.is_true(two:is_held())
  end)

  it("is lost when the holder's key is deleted", function()
    local one = permit(1)
    assert(one:acquire())
    local _, holders = document()
    assert(clients[3]:kv_delete(prefix .. "/" .. holders[1]))
    assert.equal("lost", (support.event(one)))
  end)

  it("writes other keys only while a permit is held", function()
    local one = permit(1)
    assert(one:acquire())
    assert.is_true((one:fenced_put(prefix .. "-data", "1")))
    assert(one:release())
    assert.equal("conflict", support.kind(one:fenced_put(prefix .. "-data", "2")))
    clients[1]:kv_delete(prefix .. "-data")
  end)

  it("is released when it is closed, and deletes its holder's key", function()
    local one = permit(1)
    assert(one:acquire())
    one:close()
    local _, holders = document()
    assert.same({}, holders)
    assert.same({ prefix .. "/.lock" }, (select(2, clients[1]:kv_keys(prefix .. "/", { consistent = true }))))
  end)

  it("shows its prefix and its state as a string", function()
    local one = assert(clients[1]:semaphore(prefix .. "/", 2))
    assert(one:acquire())
    assert.equal(('Semaphore(%q, held)'):format(prefix), tostring(one))
  end)

  it("returns an argument error for an invalid limit, and raises for misuse", function()
    local success, message, err = clients[1]:semaphore(prefix, 0)
    assert.equal("argument", support.kind(success, message, err))
    assert.matches("semaphore: limit is 0: it must be at least 1", message, 1, true)
    local client = clients[1]
    support.raises("semaphore: limit must be an integer", client.semaphore, client, prefix, nil)
    support.raises("semaphore: prefix must be a non-empty string", client.semaphore, client, nil, 1)
    support.raises('semaphore: unknown option "limit"', client.semaphore, client, prefix, 1, { limit = 1 })
  end)
end)

describe("a semaphore on a manual clock", function()
  it("grants an unreachable holder's permit to a waiter only after the holder's lease has ended", function()
    local sim, connect = support.manual_agent()
    local function permit(i)
      return assert(connect({ client_name = "c" .. i }):semaphore("p", 1))
    end
    local one, two = permit(1), permit(2)
    assert(one:acquire())
    two:start()
    sim:fault({ clients = { "c1" }, partition = true })
    local before, event = sim:now(), nil
    while event ~= "acquired" do
      sim:advance(0.01)
      event = two:poll()
      assert.is_false(event == "acquired" and one:is_held())
    end
    assert.is_true(sim:now() - before <= one:profile().takeover_ms / 1000 + 0.3)
  end)
end)
