-- Runs at the start of each node of histories.lua (LUA_INIT): the node also takes writes, deletions and reads of
-- single records for the clients there, and dies in calls of its storage (mortal.lua).
local own_folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
package.path = own_folder .. "../../../?.lua;" .. package.path

require("tests.programs.replicated.mortal")
local Engine = require("examples.tsdb.engine")

-- A storage that says that it has what it has not: that drops writes, or whose disk does not have what was not synced.
local forgetful = os.getenv("FORGETFUL")
local Storage = require("examples.tsdb.storage")
if forgetful == "writes" then
  local apply = Storage.apply
  function Storage.apply(...)
    return math.random() < 0.3 or apply(...)
  end
elseif forgetful == "power" then
  local open = Storage.open
  function Storage.open(path)
    local storage = open(path, "process")
    storage.survives = "machine"
    return storage
  end
end

local running = {}

-- Answers the requests whose calls have ended.
local function answer()
  for request, one in pairs(running) do
    local done, success, response, err = one.handle:poll()
    if done then
      running[request] = nil
      one.handle:close()
      local reply = { ok = success }
      if not success then
        reply.is_refused, reply.message = err ~= nil and err.maybe_applied == false, tostring(response)
      elseif one.is_read then
        -- A page whose deadline has come may end before the range does.
        reply.response, reply.next = {}, err ~= nil and err.next
        for i, record in ipairs(response) do
          reply.response[i] = { id = record.id, data = record.data, version = record.version }
        end
      else
        reply.response = response
      end
      -- The caller may no longer wait.
      request:reply(reply)
    end
  end
end

local new = Engine.new
function Engine.new(...)
  local engine = new(...)
  engine.cluster.node:handle("ready", function()
    return #engine:shards() > 0
  end)
  engine.cluster.node:handle("record", function(call, request)
    request:defer()
    local is_read = call.method == "read"
    local handle
    if is_read then
      call.what.timeout_ms = call.timeout_ms
      handle = engine.points:start("read", call.key, call.what)
    else
      handle = engine.points:start(call.method, call.key, call.what, { timeout_ms = call.timeout_ms })
    end
    running[request] = { is_read = is_read, handle = handle }
  end)
  return engine
end

local poll = Engine.poll
function Engine:poll(timeout_ms)
  local polled = poll(self, next(running) and 2 or math.min(timeout_ms, 20))
  answer()
  return polled
end
