-- Which worker of an nginx watches: the holder of the lease in a shared dict. The entries have no time limit, which
-- nginx would count by a clock that can be set back.
local now_s = require("consul_ffi.openresty.clock")

-- How long the lease is valid without a renewal, and how often it is renewed, in seconds.
local VALID_S, RENEW_S = 5, 1

-- The keys of the dict: the token of the worker that has it, when that renewed it, and how many had it. Their values
-- are replaced in place, which needs no memory.
local HOLDER, RENEWED, TERMS = "lease", "renewed", "terms"

-- The length of a token.
local LENGTH = 24

local Lease = {}
Lease.__index = Lease

local lease = { RENEW_S = RENEW_S }

-- A lease that this worker does not have yet.
function lease.new(dict)
  local token = ("%d.%d."):format(ngx.worker.pid(), math.random(0, 2 ^ 30))
  return setmetatable({ dict = dict, token = token .. ("."):rep(LENGTH - #token), renew_at = 0 }, Lease)
end

-- Whether the dict has room for a lease, which is made if it is not there.
function lease.is_there(dict)
  dict:safe_add(HOLDER, ("."):rep(LENGTH))
  dict:safe_add(RENEWED, -VALID_S)
  dict:safe_add(TERMS, 0)
  return dict:get(TERMS) and dict:get(HOLDER) and dict:get(RENEWED)
end

-- Whether this worker has had the lease since it took it; renews it then, and never takes it.
function Lease:is_kept()
  local now = now_s()
  if self.dict:get(HOLDER) ~= self.token then
    return false
  elseif now >= self.renew_at then
    self.renew_at = now + RENEW_S
    self.dict:set(RENEWED, now)
  end
  return true
end

-- Whether this worker has the lease now; renews it, or takes it when no other has it.
function Lease:is_held()
  local dict, now = self.dict, now_s()
  if not lease.is_there(dict) then
    return false
  elseif self:is_kept() then
    return true
  end
  local terms = dict:get(TERMS)
  -- Mostly one of the workers that see its end counts the next term. When two do, the last writer has it.
  if now - dict:get(RENEWED) < VALID_S or dict:incr(TERMS, 1) ~= terms + 1 then
    return false
  end
  dict:set(HOLDER, self.token)
  dict:set(RENEWED, now)
  self.renew_at = now + RENEW_S
  return true
end

-- Lets another worker take the lease at once.
function Lease:release()
  if self.dict:get(HOLDER) == self.token then
    self.dict:set(RENEWED, now_s() - VALID_S)
  end
end

return lease
